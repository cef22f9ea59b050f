// Command leaf runs a site's gateway. `leaf device` shows what polling a Modbus device costs and what its registers contain; `leaf user`
// creates the credential of a user of leaf.conf; `leaf join` makes the machine the gateway of a
// site, and `leaf reset` undoes that; `leaf backup` and `leaf restore` move it to another machine;
// `leaf link` creates the gateway's own credential by hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/pages"
	"github.com/petiole-io/petiole/internal/version"
	"github.com/petiole-io/petiole/leaf"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exitError carries the exit code of an error that a command returned. An error without
// one is about the arguments.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

// errReported is the error of a command that has already printed what is wrong.
var errReported = errors.New("reported")

// run executes the command and returns its exit code: 0 after success, 1 after a failure, 2
// for wrong arguments or a wrong configuration.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errs)
	called, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(errs, err)
	}
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	fmt.Fprintf(errs, "See '%s --help'.\n", called.CommandPath())
	return configfile.ExitCode
}

func newCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "leaf", Short: "Run a site's gateway: its NATS leaf node, its kubelet and its devices",
		Args: cobra.NoArgs, Version: version.String(),
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return runLeaf(cmd.Context(), config) },
	}
	cmd.Flags().StringVar(&config, "config", "/etc/petiole/leaf.yaml", "configuration `file`")
	cmd.AddCommand(newDeviceCommand(), newJoinCommand(), newResetCommand(), newBackupCommand(), newRestoreCommand(), newLinkCommand(), newUserCommand(), newVersionCommand())
	return cmd
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.String()) },
	}
}

// gcPercent is how much the heap grows between two collections unless the environment has GOGC. On a
// gateway memory is scarcer than processor time: with 500 devices and 15,000 values a second 20 instead of
// 50 saves a sixth of the memory (docs/benchmarks.md).
const gcPercent = 20

func runLeaf(ctx context.Context, path string) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // before anything that can take long
	defer signal.Stop(hangups)
	cfg, err := loadConfig(path)
	if err != nil {
		return exitError{configfile.ExitCode, err}
	}
	logCfg := zap.NewProductionConfig()
	logCfg.Level, err = zap.ParseAtomicLevel(cfg.LogLevel)
	if err != nil {
		return exitError{configfile.ExitCode, err}
	}
	logCfg.Sampling, logCfg.DisableStacktrace = nil, true
	log, err := logCfg.Build()
	if err != nil {
		return exitError{1, fmt.Errorf("open log: %w", err)}
	}
	l := leaf.New(cfg, version.String(), log)
	ctx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { reload(ctx, hangups, l, path, log) })
	beside.Go(func() { releaseMemory(ctx) })
	beside.Go(func() {
		if err := pages.ReleaseOnceStarted(ctx); err != nil {
			log.Warn("pages of the program stay in memory", zap.Error(err))
		}
	})
	err = l.Run(ctx)
	ended := ctx.Err() != nil
	stop()
	beside.Wait()
	if err != nil && !ended {
		log.Error("leaf stopped", zap.Error(err))
		return exitError{1, errReported}
	}
	return nil
}

func loadConfig(path string) (leaf.Config, error) {
	cfg := leaf.DefaultConfig()
	if err := configfile.Load(path, &cfg); err != nil {
		return cfg, err
	}
	return cfg, cfg.Validate()
}

// reload has the leaf read its files again with each signal until ctx ends.
func reload(ctx context.Context, hangups <-chan os.Signal, l *leaf.Leaf, path string, log *zap.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		cfg, err := loadConfig(path)
		if err == nil {
			err = l.Reload(cfg)
		}
		if err != nil {
			log.Error("configuration not reloaded, the former one stays", zap.String("file", path), zap.Error(err))
		}
	}
}
