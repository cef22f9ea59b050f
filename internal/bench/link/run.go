package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// Config is what Run needs.
type Config struct {
	// Root is the folder of the module, Out where the tables and Log where the benchmarks' output goes.
	Root     string
	Out, Log io.Writer
	// Idle leaves out everything but the traffic of an idle link, Lines everything but slow lines.
	Idle, Lines bool
}

// suite is one run of a test binary.
type suite struct {
	folder, benchmarks string
	// idle is set for the traffic of an idle link, lines for slow lines.
	idle, lines bool
}

var suites = []suite{
	{folder: "./leaf", benchmarks: "^BenchmarkLine$", lines: true},
	{folder: "./bridge/bridgetest", benchmarks: "^BenchmarkKubeletLine$", lines: true},
	{folder: "./leaf", benchmarks: "^BenchmarkSamples$"},
	{folder: "./leaf", benchmarks: "^BenchmarkIdle$", idle: true},
}

// Run runs the benchmarks, side by side since they wait more than they compute, and prints tables. It
// returns after about twenty minutes, or when ctx ends.
func Run(ctx context.Context, cfg Config) error {
	var selected []suite
	for _, s := range suites {
		if (!cfg.Idle || s.idle) && (!cfg.Lines || s.lines) {
			selected = append(selected, s)
		}
	}
	if len(selected) == 0 {
		return errors.New("--idle and --lines leave nothing to measure")
	}
	var all []result
	var failed []error
	var mu sync.Mutex
	var running sync.WaitGroup
	for _, s := range selected {
		running.Go(func() {
			results, err := s.run(ctx, cfg)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, results...)
			if err != nil {
				failed = append(failed, fmt.Errorf("%s of %s: %w", s.benchmarks, s.folder, err))
			}
		})
	}
	running.Wait()
	return errors.Join(append(failed, printTables(cfg.Out, all))...)
}

func (s suite) run(ctx context.Context, cfg Config) ([]result, error) {
	modules, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return nil, fmt.Errorf("find the modules: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-timeout=60m", "-run=^$", "-bench="+s.benchmarks, "-benchtime=1x", s.folder)
	cmd.Dir = cfg.Root
	// The API server's test package finds its own folder there under -trimpath.
	cmd.Env = append(os.Environ(), "TEST_SRCDIR="+strings.TrimSpace(string(modules)), "TEST_WORKSPACE=.")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, cfg.Log), cfg.Log
	err = cmd.Run()
	results, parseErr := parse(out.String())
	return results, errors.Join(err, parseErr)
}
