// Command build compiles the lab's programs and shows how far it is: a line for each
// program, the share that is done, the time, and what is next. What the go command prints
// goes to a log file. A build that was interrupted goes on where it stopped, because every
// package that was compiled is in Go's build cache.
//
// It exits with 1 after a program that does not compile; the others are built all the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/petiole-io/petiole/internal/lab/host"
)

func main() {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: build [--out DIR] [PROGRAM...]\n\nPrograms: %s\n\n", strings.Join(names(modules), " "))
		flag.PrintDefaults()
	}
	out := flag.String("out", ".lab/bin", "folder of the programs; the log is beside it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *out, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run builds the named programs, or those of the lab when none is named, below the current
// folder, which is the repository's root.
func run(ctx context.Context, out string, programs []string) error {
	selected, err := choose(modules, programs)
	if err != nil {
		return err
	}
	out, err = filepath.Abs(out)
	if err != nil {
		return err
	}
	logFile := filepath.Join(filepath.Dir(out), "log", "build.log")
	for _, dir := range []string{out, filepath.Dir(logFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	log, err := os.Create(logFile)
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	defer log.Close()
	stamp, err := kubernetesStamp(ctx)
	if err != nil {
		return err
	}
	memory, err := host.AvailableMemory()
	if err != nil {
		return err
	}
	b := builder{out: out, log: log, logFile: shorter(logFile), stamp: stamp, collection: collection(memory, runtime.NumCPU())}
	b.progress = newProgress(os.Stdout, names(selected), b.logFile)
	err = b.build(ctx, selected)
	if ctx.Err() != nil {
		return errors.New("interrupted; the next build goes on from here")
	}
	return err
}

// shorter returns the path relative to the current folder where that is below it.
func shorter(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return rel
}
