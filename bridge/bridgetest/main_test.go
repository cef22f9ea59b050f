package bridgetest

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge"
)

// childConfig is the environment variable by which this binary is a bridge and no test.
const childConfig = "BRIDGETEST_CHILD_CONFIG"

// childHub is the one by which it is a hub.
const childHub = "BRIDGETEST_CHILD_HUB"

func TestMain(m *testing.M) {
	if path := os.Getenv(childHub); path != "" {
		os.Exit(runHub(path))
	}
	if path := os.Getenv(childConfig); path != "" {
		os.Exit(child(path))
	}
	code := m.Run()
	stopShared()
	os.Exit(code)
}

// child runs a bridge until it is told to end.
func child(path string) int {
	cfg, err := bridge.LoadConfig(path)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	logging := zap.NewDevelopmentConfig()
	logging.Level, logging.DisableStacktrace, logging.DisableCaller = zap.NewAtomicLevelAt(zap.InfoLevel), true, true
	log, err := logging.Build()
	if err == nil {
		err = bridge.New(cfg, log).Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
