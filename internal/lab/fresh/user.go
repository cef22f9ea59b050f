package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/lab/host"
)

// step is a command of the user, with the time it may take.
type step struct {
	command string
	bound   time.Duration
}

// tour is a list of commands of the user, of which the last stops what the others have started.
type tour struct {
	name  string
	steps []step
	stop  step
}

// The values of --tour.
const (
	tourLab     = "lab"
	tourCompose = "compose"
	tourInstall = "install" // of two machines: walk
)

var tours = map[string]tour{
	tourLab: {"the first command of the README", []step{
		{"go tool task lab", timeout},
		{inLab("kubectl wait node/plant-a-1 node/plant-b-1 --for=condition=Ready --timeout=60s"), 2 * time.Minute},
		{inLab("kubectl apply -f deploy/lab/samples/"), time.Minute},
		{inLab("kubectl rollout status deployment/web --timeout=120s"), 3 * time.Minute},
		{inLab("kubectl wait devicestatus/boiler --for=create --timeout=60s"), 2 * time.Minute},
		{inLab("kubectl wait devicestatus/boiler --for=jsonpath={.status.state}=online --timeout=60s"), 2 * time.Minute},
	}, step{"go tool task lab:down", 3 * time.Minute}},
	tourCompose: {"the lab in Docker Compose", []step{
		{"deploy/compose/test/install.sh", 10 * time.Minute},
		{"go tool task build PROGRAMS='" + composePrograms + "'", timeout},
		{"deploy/compose/test/docker.sh", 2 * time.Minute},
		{"deploy/compose/test/images.sh", 10 * time.Minute},
		{"deploy/compose/test/tour.sh", 15 * time.Minute},
	}, step{"deploy/compose/test/down.sh", 5 * time.Minute}},
}

// composePrograms are the programs of the images, and kubectl.
const composePrograms = "bridge nats-server lab kubectl-petiole leaf petiole-kubelet crio ociwrap gateway kubectl"

func inLab(command string) string { return "source .lab/env && " + command }

// user runs the steps in the box, stops the lab and looks for leftovers.
func user(ctx context.Context) error {
	started, err := time.Parse(time.RFC3339, os.Getenv("STARTED"))
	if err != nil {
		return fmt.Errorf("read the start: %w", err)
	}
	out := progress{suite: os.Getenv("SUITE"), start: started}
	log := os.NewFile(3, "log")
	unix.CloseOnExec(3)
	before, err := inspect()
	if err != nil {
		return err
	}
	t := tours[os.Getenv("TOUR")]
	for _, s := range t.steps {
		if err := s.do(ctx, out, log); err != nil {
			return errors.Join(err, missingPackages())
		}
	}
	if err := t.stop.do(ctx, out, log); err != nil {
		return err
	}
	return awaitNothing(ctx, before)
}

// missingPackages names the packages of the complete list that do not work in the box,
// whatever the list in the tried copy is.
func missingPackages() error {
	var errs []error
	for _, l := range host.Missing(host.Lab()) {
		errs = append(errs, fmt.Errorf("package %s (%s) does not work here: %w", l.Name, l.Use, l.Err))
	}
	return errors.Join(errs...)
}

// do runs the step's command and logs its output. It shows the last line when the
// command takes long, and the last thirty when it fails.
func (s step) do(ctx context.Context, out progress, log io.Writer) error {
	out.say("%s", strings.TrimPrefix(s.command, inLab("")))
	ctx, cancel := context.WithTimeout(ctx, s.bound)
	defer cancel()
	recent := &tail{log: log}
	fmt.Fprintf(recent, "\n$ %s\n", s.command)
	cmd := exec.CommandContext(ctx, "bash", "-c", s.command)
	cmd.Stdout, cmd.Stderr = recent, recent
	cmd.WaitDelay = 10 * time.Second
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	busy := time.NewTicker(30 * time.Second)
	defer busy.Stop()
	for {
		select {
		case <-busy.C:
			out.say("… %s", strings.Join(recent.lines(1), ""))
		case err := <-done:
			if ctx.Err() != nil {
				err = fmt.Errorf("ended after %v: %w", s.bound, ctx.Err())
			}
			if err != nil {
				return fmt.Errorf("%s: %w; its last lines:\n%s", s.command, err, strings.Join(recent.lines(30), "\n"))
			}
			return nil
		}
	}
}

// tail writes to the log, and keeps the end.
type tail struct {
	mu   sync.Mutex
	log  io.Writer
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const keep = 16 << 10
	t.text = append(t.text, p...)
	if over := len(t.text) - keep; over > 0 {
		t.text = t.text[over:]
	}
	return t.log.Write(p)
}

func (t *tail) lines(n int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return lastLines(string(t.text), n)
}
