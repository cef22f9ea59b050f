package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/petiole-io/petiole/internal/breaker"
)

// ownMounts is set in the environment of a breaker whose mounts no other process sees.
const ownMounts = "PETIOLE_BREAKER_MOUNTS"

func runBreaker() *cobra.Command {
	var o breaker.Options
	cmd := &cobra.Command{
		Use: "breaker", Short: "Try to break delivery: random faults on a world of its own, judged by invariants", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			klog.SetLogger(logr.Discard()) // faults make the client log much
			l, err := openAsRoot()
			if err != nil {
				return err
			}
			if os.Getenv(ownMounts) == "" {
				return execWithOwnMounts()
			}
			if o.Seed == 0 {
				o.Seed = uint64(time.Now().UnixNano()) % 1_000_000
			}
			o.Root, o.Out = filepath.Dir(l.Dir()), os.Stdout
			o.Dir = filepath.Join(l.Dir(), "breaker", fmt.Sprint(o.Seed))
			return breaker.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Sites, "sites", 8, "light sites")
	f.BoolVar(&o.Full, "full", true, "one more site, with kubelet, CRI-O and containers")
	f.DurationVar(&o.Duration, "duration", 10*time.Minute, "how long rounds are begun")
	f.IntVar(&o.Rounds, "rounds", 0, "how many rounds instead")
	f.Uint64Var(&o.Seed, "seed", 0, "what chooses the faults; 0: by the clock")
	f.StringSliceVar(&o.Faults, "faults", nil, "kinds of faults: names, prefixes that end in *, and -name to leave one out (default all)")
	f.IntVar(&o.FaultsPerRound, "faults-per-round", 0, "faults of a round (default three for each site)")
	f.DurationVar(&o.RoundLength, "round", 30*time.Second, "time within which the faults of a round begin")
	f.StringVar(&o.Former, "former", "", "folder with bridge and leaf of another version: each round is a step of an upgrade, or of the way back")
	f.DurationVar(&o.Patience, "patience", 2*time.Minute, "how long sites may take to converge")
	return cmd
}

// execWithOwnMounts replaces this process by the same command in a mount namespace of its own. In the
// machine's, any container that starts takes a copy of the sites' mounts along, and a disk whose power
// was cut cannot be mounted again as long as the container lives.
func execWithOwnMounts() error {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("a mount namespace for the breaker: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("a mount namespace for the breaker: %w", err)
	}
	args := append([]string{"unshare", "--mount", "--propagation", "private", self}, os.Args[1:]...)
	return fmt.Errorf("%s: %w", unshare, syscall.Exec(unshare, args, append(os.Environ(), ownMounts+"=own")))
}
