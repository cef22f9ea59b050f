package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// lab is the running lab of all tests.
var lab *rig.Rig

// pressure records how busy the machine is while the tests run.
var pressure rig.Pressure

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		fmt.Fprintf(os.Stderr, "e2e: needs Linux and root: it creates network namespaces and runs containers (here: %s, uid %d)\n", runtime.GOOS, os.Geteuid())
		return 1
	}
	root, err := rig.FindRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if os.Getenv("PETIOLE_USE_LAB") != "1" {
		// The task builds what has changed; the lab's own command would not.
		for _, args := range [][]string{{"lab"}, {"build", "PROGRAMS=metrics-server sample-device-plugin"}} {
			if err := command(root, "go", append([]string{"tool", "task"}, args...)...); err != nil {
				fmt.Fprintln(os.Stderr, "e2e:", err)
				return 1
			}
		}
		if os.Getenv("PETIOLE_KEEP_LAB") != "1" {
			defer func() {
				if err := command(root, "go", "tool", "task", "lab:down"); err != nil {
					fmt.Fprintln(os.Stderr, "e2e:", err)
					code = 1
				}
			}()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if lab, err = rig.Open(ctx, root); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() {
		if err := lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
	}()
	watching, stop := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- pressure.Run(watching) }()
	defer func() {
		stop()
		if err := <-watched; err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}()
	return m.Run()
}

// command runs a command with its progress on standard output. Of the environment it
// does not pass on the variables that a task has set for its own builds: a task
// prefers variables that are set to those of its own file.
func command(root, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, os.Stdout, os.Stderr
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CGO_ENABLED=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}
