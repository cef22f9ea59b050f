// Command preflight comes before the lab is built, which takes minutes on a fresh machine. It
// runs in the repository's root, and prints at once what a first build takes and what will be
// installed. It exits with code 2 and names every problem that no installation solves, too
// little disk space included, before anything is changed. Then it installs the Debian packages
// that builds and lab need, with --tests also those that only tests need, and downloads the Go
// modules. It warns if the kernel's limit of inotify instances leaves too few for a lab. On a
// machine where all of it is done it prints nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/petiole-io/petiole/internal/lab/host"
)

func main() {
	tests := flag.Bool("tests", false, "install what the tests need, too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *tests)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, host.ErrUnfit) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(ctx context.Context, tests bool) error {
	if err := host.Check(); err != nil {
		return err
	}
	need := host.Lab()
	if tests {
		need = append(need, host.Tests()...)
	}
	lacks := host.Missing(need)
	root, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the working folder: %w", err)
	}
	needs, err := host.MeasureRequirements(ctx, root, len(lacks) > 0)
	if err != nil {
		return err
	}
	if text := needs.String(); text != "" {
		fmt.Println(text)
	}
	if err := needs.Check(); err != nil {
		return err
	}
	inotify, err := host.MeasureInotify()
	if err != nil {
		return err
	}
	if text := inotify.String(); text != "" {
		fmt.Println(text)
	}
	if err := installPackages(ctx, need, lacks); err != nil {
		return err
	}
	modules, err := host.MissingModules(ctx, root)
	if err != nil {
		return err
	}
	return host.DownloadModules(ctx, os.Stdout, modules)
}

func installPackages(ctx context.Context, need []host.Package, lacks []host.Lack) error {
	if len(lacks) == 0 {
		return nil
	}
	fmt.Println("installing Debian packages:")
	for _, l := range lacks {
		fmt.Printf("  %-28s %s\n", l.Name, l.Use)
	}
	if err := host.Install(ctx, os.Stdout, host.Names(lacks)); err != nil {
		return err
	}
	var errs []error
	for _, l := range host.Missing(need) {
		errs = append(errs, fmt.Errorf("package %s does not work after its installation: %w", l.Name, l.Err))
	}
	return errors.Join(errs...)
}
