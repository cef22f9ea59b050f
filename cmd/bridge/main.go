// Command bridge joins a Kubernetes API server to a NATS hub. See package bridge.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/internal/configfile"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("bridge", flag.ContinueOnError)
	path := flags.String("config", "", "configuration `file` (required)")
	if err := flags.Parse(args); err != nil {
		return configfile.ExitCode
	}
	if *path == "" || flags.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: bridge --config FILE")
		return configfile.ExitCode
	}
	cfg, err := bridge.LoadConfig(*path)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bridge: configuration %s is not valid:\n%v\n", *path, err)
		return configfile.ExitCode
	}
	log := logger(cfg.Log)
	defer func() { _ = log.Sync() }() // standard error cannot always be synced
	klog.SetLogger(clientLogger(cfg.Log, log))
	noticeDeadConnections()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bridge.New(cfg, log).Run(ctx); err != nil {
		log.Error("bridge ended", zap.Error(err))
		return 1
	}
	return 0
}

// noticeDeadConnections has client-go give up a silent connection to the API server
// after 15 s and not 45, unless the environment says otherwise.
func noticeDeadConnections() {
	for name, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if _, set := os.LookupEnv(name); !set {
			_ = os.Setenv(name, seconds) // fails for malformed names only
		}
	}
}

func logger(cfg bridge.LogConfig) *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(os.Stderr), cfg.ZapLevel()))
}

// clientLogger takes the Kubernetes client's own lines, one for each attempt, which are
// of interest only when debugging: the bridge logs the changes of state.
func clientLogger(cfg bridge.LogConfig, log *zap.Logger) logr.Logger {
	if cfg.ZapLevel() > zapcore.DebugLevel {
		return logr.Discard()
	}
	log = log.Named("client-go")
	return funcr.New(func(_, line string) { log.Debug(line) }, funcr.Options{})
}
