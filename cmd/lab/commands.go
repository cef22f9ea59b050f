package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/internal/lab"
	"github.com/petiole-io/petiole/internal/lab/host"
)

func up() *cobra.Command {
	return &cobra.Command{
		Use: "up", Short: "Start every part that does not run, and wait until all are ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return locked(cmd.Context(), true, func(l *lab.Lab) error {
				if err := l.Up(cmd.Context()); err != nil {
					return advise(err)
				}
				l.Hints()
				return nil
			})
		},
	}
}

func sitesServices() *cobra.Command {
	return &cobra.Command{
		Use: "services", Short: "Give the sites kube-proxy and CoreDNS", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return locked(cmd.Context(), true, func(l *lab.Lab) error { return l.InstallServices(cmd.Context()) })
		},
	}
}

// advise adds what to do next. A machine that cannot run the lab needs something else, which
// the error says.
func advise(err error) error {
	if errors.Is(err, host.ErrUnfit) {
		return err
	}
	return fmt.Errorf("%w\n\n%s", err, lab.Advice)
}

func down() *cobra.Command {
	var purge bool
	cmd := &cobra.Command{
		Use: "down", Short: "Stop everything; the files stay", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return locked(cmd.Context(), true, func(l *lab.Lab) error { return l.Down(purge) })
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "delete the files too: the next start is like the first")
	return cmd
}

func cut() *cobra.Command {
	var silent bool
	cmd := &cobra.Command{
		Use: "cut SITE", Short: "Cut a site's link", Args: cobra.ExactArgs(1),
		RunE: onSite(func(_ *cobra.Command, l *lab.Lab, site string) error { return l.Cut(site, silent) }),
	}
	cmd.Flags().BoolVar(&silent, "silent", false, "drop packets instead of taking the device down")
	return cmd
}

func heal() *cobra.Command {
	return &cobra.Command{
		Use: "heal SITE", Short: "Bring a site's link up again", Args: cobra.ExactArgs(1),
		RunE: onSite(func(_ *cobra.Command, l *lab.Lab, site string) error { return l.Heal(site) }),
	}
}

func reboot() *cobra.Command {
	var memory int64
	cmd := &cobra.Command{
		Use: "reboot SITE", Short: "Power-cycle a site; its link stays as it is", Args: cobra.ExactArgs(1),
		RunE: onSite(func(cmd *cobra.Command, l *lab.Lab, site string) error { return l.Reboot(cmd.Context(), site, memory) }),
	}
	cmd.Flags().Int64Var(&memory, "memory", 0, "what gateway and pods of the site have from then on, in bytes; 0: all of the machine's")
	return cmd
}

func restart() *cobra.Command {
	return &cobra.Command{
		Use: "restart PART", Short: "Kill one part with SIGKILL and start it again", Args: cobra.ExactArgs(1),
		RunE: onSite(func(_ *cobra.Command, l *lab.Lab, part string) error { return l.Restart(part) }),
	}
}

// locked opens the lab as root and calls run while it holds the lab's lock.
func locked(ctx context.Context, exclusive bool, run func(*lab.Lab) error) (err error) {
	l, err := openAsRoot()
	if err != nil {
		return err
	}
	release, err := l.Lock(ctx, exclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return run(l)
}

// onSite opens the lab for a command with one argument.
func onSite(run func(*cobra.Command, *lab.Lab, string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return locked(cmd.Context(), false, func(l *lab.Lab) error { return run(cmd, l, args[0]) })
	}
}

func status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs, the links, and what is pending", Args: cobra.NoArgs,
		Long: "Show what runs, the links, and what is pending.\n\nThe exit code is 0 when every part works, 1 when some do, 3 when nothing runs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return l.Status(cmd.Context(), os.Stdout)
		},
	}
}

func env() *cobra.Command {
	return &cobra.Command{
		Use: "env", Short: "Print what a shell sources: eval \"$(lab env)\"", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(filepath.Join(l.Dir(), "env"))
			if err != nil {
				return fmt.Errorf("%w: %w", lab.ErrNotUp, err)
			}
			_, err = os.Stdout.Write(data)
			return err
		},
	}
}

func enter() *cobra.Command {
	return &cobra.Command{
		Use: "exec SITE COMMAND [ARG...]", Short: "Run a command in a site's network", Args: cobra.MinimumNArgs(2),
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := openAsRoot()
			if err != nil {
				return err
			}
			namespace, err := l.Namespace(args[0])
			if err != nil {
				return err
			}
			nsenter, err := exec.LookPath("nsenter")
			if err != nil {
				return fmt.Errorf("enter %s: %w", args[0], err)
			}
			argv := append([]string{nsenter, "--net=" + namespace, "--"}, args[1:]...)
			if err := syscall.Exec(nsenter, argv, os.Environ()); err != nil {
				return fmt.Errorf("run %s in %s: %w", args[1], args[0], err)
			}
			return nil
		},
	}
}
