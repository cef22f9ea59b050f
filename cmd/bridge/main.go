// Command bridge connects a Kubernetes API server to a NATS hub. See package bridge.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

var (
	// errStopped is returned after the reason was logged.
	errStopped       = errors.New("bridge ended")
	errConfiguration = errors.New("configuration is not valid")
)

// run runs the command and returns its exit code: 0, 1 if the bridge ended with an error, 2
// if the arguments or the configuration are invalid.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(errs)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errStopped):
		return 1
	case errors.Is(err, errConfiguration):
		fmt.Fprintln(errs, err)
	default:
		fmt.Fprintf(errs, "%v\nSee 'bridge --help'.\n", err)
	}
	return configfile.ExitCode
}

func newCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "bridge --config FILE", Short: "Connect a Kubernetes API server to a NATS hub",
		Args: cobra.NoArgs, Version: version.String(),
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBridge(cmd.Context(), config) },
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration `file` (required)")
	cmd.AddCommand(newHubCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.String()) },
	})
	return cmd
}

func runBridge(ctx context.Context, path string) error {
	if path == "" {
		return errors.New("--config is required")
	}
	cfg, err := bridge.LoadConfig(path)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return fmt.Errorf("%s: %w:\n%w", path, errConfiguration, err)
	}
	log := logger(cfg.Log)
	defer func() { _ = log.Sync() }() // standard error cannot always be synced
	klog.SetLogger(clientLogger(cfg.Log, log))
	detectDeadConnections()
	if err := bridge.New(cfg, log).Run(ctx); err != nil {
		log.Error("bridge ended", zap.Error(err))
		return errStopped
	}
	return nil
}

// detectDeadConnections makes client-go close a dead connection to the API server after
// 15 s instead of 45, unless the environment sets other values.
func detectDeadConnections() {
	for name, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if _, set := os.LookupEnv(name); !set {
			_ = os.Setenv(name, seconds) // fails only for invalid names
		}
	}
}

func logger(cfg bridge.LogConfig) *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(os.Stderr), cfg.ZapLevel()))
}

// clientLogger returns the logger of the Kubernetes client, which logs each attempt and is
// enabled at debug level only: the bridge itself logs changes of state.
func clientLogger(cfg bridge.LogConfig, log *zap.Logger) logr.Logger {
	if cfg.ZapLevel() > zapcore.DebugLevel {
		return logr.Discard()
	}
	log = log.Named("client-go")
	return funcr.New(func(_, line string) { log.Debug(line) }, funcr.Options{})
}
