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

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/internal/lab"
	"github.com/petiole-io/petiole/internal/lab/host"
)

// exitUnfit is the exit code when the machine or the caller cannot run the lab.
const exitUnfit = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	if errors.Is(err, host.ErrUnfit) {
		os.Exit(exitUnfit)
	}
	os.Exit(1)
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lab", Short: "A whole Petiole on one machine: control plane, hub, bridge and two sites",
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.AddCommand(up(), down(), cut(), heal(), reboot(), restart(), status(), env(), enter(), controlPlane(), registry(), modbusSlave(), breakIt())
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
