// Command leaf runs a site's gateway. As `leaf kubelet` it is upstream's kubelet; `leaf
// device` shows an engineer what polling a Modbus device costs and what it holds; `leaf
// user` makes the credential of a user of leaf.conf.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/version"
	"github.com/petiole-io/petiole/leaf"
	"github.com/petiole-io/petiole/leaf/node"
	"github.com/petiole-io/petiole/leaf/node/kubelet"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == node.Command {
		os.Exit(kubelet.Run(context.Background(), os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == deviceCommand {
		os.Exit(runDevice(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == userCommand {
		os.Exit(runUser(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(run())
}

func run() int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // on a gateway memory is scarcer than processor time
	}
	path := flag.String("config", "/etc/petiole/leaf.yaml", "configuration `file`")
	printVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *printVersion {
		fmt.Println(version.String())
		return 0
	}
	cfg := leaf.DefaultConfig()
	err := configfile.Load(*path, &cfg)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return configfile.ExitCode
	}
	logCfg := zap.NewProductionConfig()
	logCfg.Level, err = zap.ParseAtomicLevel(cfg.LogLevel)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return configfile.ExitCode
	}
	logCfg.Sampling, logCfg.DisableStacktrace = nil, true
	log, err := logCfg.Build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "open log:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := leaf.New(cfg, version.String(), log).Run(ctx); err != nil && ctx.Err() == nil {
		log.Error("leaf stopped", zap.Error(err))
		return 1
	}
	return 0
}
