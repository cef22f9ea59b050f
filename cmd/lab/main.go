// Command lab runs a whole Petiole on one Debian machine, for development and tests.
//
// It is the one binary that embeds a Kubernetes control plane; `lab up` starts itself
// again as `lab controlplane`, `lab registry` and `lab modbus-slave`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/internal/lab"
	"github.com/petiole-io/petiole/internal/lab/host"
)

// Exit codes besides 0 and 1.
const (
	exitUnfit       = 2   // the machine or the caller cannot run the lab
	exitNotUp       = 3   // nothing runs, as for an init script's status (LSB)
	exitInterrupted = 130 // as shells say of SIGINT
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends at once; one that reaches the group and the process is one.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	err := root().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	switch {
	case errors.Is(err, host.ErrUnfit):
		return exitUnfit
	case errors.Is(err, lab.ErrNotUp):
		return exitNotUp
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return 1
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lab", Short: "A whole Petiole on one machine: control plane, hub, bridge and two sites",
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.AddCommand(up(), down(), cut(), heal(), reboot(), restart(), status(), env(), enter(), controlPlane(), registry(), modbusSlave(), sitesServices(), composeCommands(), runBreaker())
	return cmd
}

// open finds the lab from the working folder.
func open() (*lab.Lab, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the working folder: %w", err)
	}
	return lab.Open(dir, lab.Printer{Out: os.Stdout})
}

// openAsRoot is open for the commands that change the machine.
func openAsRoot() (*lab.Lab, error) {
	if err := host.Check(); err != nil {
		return nil, err
	}
	return open()
}
