package fieldbus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// Config configures Run.
type Config struct {
	// Collector is the command that takes a duration as its last argument and calls
	// Collect; Telegraf is the binary of internal/bench/telegraf.
	Collector []string
	Telegraf  string
	// Leaf is the binary of cmd/leaf.
	Leaf string
	// Duration is the time for which each collector runs each plan.
	Duration time.Duration
	// Only is the name of one plan; empty: all.
	Only string
	Out  io.Writer
}

// Run runs every plan, first with Telegraf and then with Petiole, and prints a
// table for each. A missed goal is shown in the table and is no error.
func Run(ctx context.Context, cfg Config) error {
	dir, err := os.MkdirTemp("", "bench-modbus-")
	if err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	r := &runner{cfg: cfg, dir: dir}
	var names []string
	ran := false
	for _, s := range []struct {
		name  string
		carry func(context.Context) error
	}{
		{"contiguous", r.contiguous},
		{"slow", r.slow},
		{"sparse", r.sparse},
		{"writes", r.writes},
		{"fleet", r.fleet},
		{"gateway", r.gateway},
		{"serial", r.serial},
		{"bus", r.bus},
	} {
		names = append(names, s.name)
		if err == nil && (cfg.Only == "" || cfg.Only == s.name) {
			err, ran = s.carry(ctx), true
		}
	}
	if !ran {
		err = fmt.Errorf("there is no plan %q, but %v", cfg.Only, names)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

type runner struct {
	cfg Config
	dir string
}

// petiole runs a plan with the driver, in a process of its own.
func (r *runner) petiole(ctx context.Context, p plan) (result, error) {
	in, err := json.Marshal(p)
	if err != nil {
		return result{}, fmt.Errorf("encode plan: %w", err)
	}
	args := append(slices.Clone(r.cfg.Collector[1:]), r.cfg.Duration.String())
	cmd := exec.CommandContext(ctx, r.cfg.Collector[0], args...)
	cmd.Stdin = bytes.NewReader(in)
	return collected(cmd)
}

// telegraf runs a plan with Telegraf's input, in a process of its own.
func (r *runner) telegraf(ctx context.Context, p plan, fill int) (result, error) {
	file := filepath.Join(r.dir, "telegraf-"+strconv.Itoa(fill)+".conf")
	if err := os.WriteFile(file, []byte(p.telegraf(fill)), 0o600); err != nil {
		return result{}, fmt.Errorf("write configuration: %w", err)
	}
	return collected(exec.CommandContext(ctx, r.cfg.Telegraf, "-config", file,
		"-settle", p.Settle.String(), "-duration", r.cfg.Duration.String(), "-interval", p.Interval.String()))
}

func collected(cmd *exec.Cmd) (result, error) {
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return result{}, fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), err, tail(problems.Bytes()))
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return result{}, fmt.Errorf("read result of %s: %w", filepath.Base(cmd.Path), err)
	}
	return r, nil
}

func tail(b []byte) []byte {
	if len(b) > 500 {
		return b[len(b)-500:]
	}
	return b
}

// table prints aligned lines below a title.
type table struct{ w *tabwriter.Writer }

func (r *runner) table(title, head string) table {
	fmt.Fprintf(r.cfg.Out, "\n%s\n", title)
	w := tabwriter.NewWriter(r.cfg.Out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  "+head)
	return table{w}
}

func (t table) row(format string, args ...any) { fmt.Fprintf(t.w, "  "+format+"\n", args...) }

func (t table) end() error { return t.w.Flush() }

// goal returns the text of a goal and whether it was met.
func goal(met bool, what string) string {
	if met {
		return what + ": met"
	}
	return what + ": MISSED"
}
