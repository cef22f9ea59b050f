// Package compare runs a benchmark of this version and of another one in turns on one machine, and
// prints the ratios of their figures.
//
// Each version runs with its own programs and its own lab, in its own repository. `bench compare`
// calls it; it needs root, both repositories built, and no lab beside it.
package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// ErrSlower reports a figure of this version that is above the bound.
var ErrSlower = errors.New("slower than the version before")

// Options configures a comparison.
type Options struct {
	// Root is this repository, Former that of the other version. Both have their programs in .lab/bin.
	Root, Former string
	// Benchmark is latency or delivery, Args are its flags; both versions must know them.
	Benchmark string
	Args      []string
	// Rounds is how often each version runs, at least 1.
	Rounds int
	// Bound is the largest ratio of a median, this version's to the other's, that is no error.
	Bound float64
	Out   io.Writer
}

// Run compares. It blocks for as long as all runs take, some minutes each. It returns ErrSlower if a
// figure is above the bound.
func Run(ctx context.Context, o Options) error {
	if o.Benchmark != "latency" && o.Benchmark != "delivery" {
		return fmt.Errorf("benchmark %q: want latency or delivery", o.Benchmark)
	}
	if o.Rounds < 1 {
		return fmt.Errorf("--rounds %d: must be at least 1", o.Rounds)
	}
	if inside(o.Former, filepath.Join(o.Root, ".lab")) {
		return fmt.Errorf("--former %s: must not be in %s, which the end of each run purges", o.Former, filepath.Join(o.Root, ".lab"))
	}
	former, current := Figures{}, Figures{}
	for round := range o.Rounds {
		turns := []turn{{o.Former, former}, {o.Root, current}}
		if round%2 == 1 {
			slices.Reverse(turns) // what changes on the machine in time must not favour either
		}
		for _, t := range turns {
			out, err := o.run(ctx, t.root)
			if err != nil {
				return err
			}
			t.figures.Read(out)
		}
	}
	return o.print(former, current)
}

// inside reports whether path is dir or in it.
func inside(path, dir string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	relative, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(relative)
}

type turn struct {
	root    string
	figures Figures
}

// run runs the benchmark of one version and returns its output.
func (o Options) run(ctx context.Context, root string) (out string, err error) {
	fmt.Fprintf(o.Out, "%s: bench %s %v\n", root, o.Benchmark, o.Args)
	if o.Benchmark == "latency" {
		if _, err := program(ctx, root, "lab", "up"); err != nil {
			return "", err
		}
		defer func() {
			_, downErr := program(context.WithoutCancel(ctx), root, "lab", "down", "--purge")
			err = errors.Join(err, downErr)
		}()
	}
	out, err = program(ctx, root, "bench", append([]string{o.Benchmark}, o.Args...)...)
	fmt.Fprintln(o.Out, out)
	return out, err
}

// program runs a program of a version, in its repository.
func program(ctx context.Context, root, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(root, ".lab", "bin", name), args...)
	var out bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s %v: %w", root, name, args, err)
	}
	return out.String(), nil
}

// print prints the medians of the figures that both have.
func (o Options) print(former, current Figures) error {
	var slower []string
	w := tabwriter.NewWriter(o.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tBEFORE\tNOW\tRATIO\t")
	for _, name := range current.Names() {
		before, known := former.Median(name)
		if !known || before == 0 {
			continue
		}
		now, _ := current.Median(name)
		ratio, mark := now/before, ""
		if ratio > o.Bound {
			mark = fmt.Sprintf("more than %.2f", o.Bound)
			slower = append(slower, name)
		}
		fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%.3f\t%s\n", name, before, now, ratio, mark)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(slower) > 0 {
		return fmt.Errorf("%w: %q", ErrSlower, slower)
	}
	return nil
}
