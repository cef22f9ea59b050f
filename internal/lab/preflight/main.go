// Command preflight comes before the lab is built, which takes minutes on a fresh
// machine: it says at once what is missing, with exit code 2, and installs the Debian
// packages that builds and lab need, and with --tests also those that only tests need.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/petiole-io/petiole/internal/lab/host"
)

func main() {
	tests := flag.Bool("tests", false, "install what the tests need, too")
	flag.Parse()
	err := run(*tests)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, host.ErrUnfit) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(tests bool) error {
	if err := host.Check(); err != nil {
		return err
	}
	need := host.Lab()
	if tests {
		need = append(need, host.Tests()...)
	}
	lacks := host.Missing(need)
	if len(lacks) == 0 {
		return nil
	}
	fmt.Println("installing Debian packages:")
	for _, l := range lacks {
		fmt.Printf("  %-28s %s\n", l.Name, l.Use)
	}
	if err := host.Install(os.Stdout, host.Names(lacks)); err != nil {
		return err
	}
	var errs []error
	for _, l := range host.Missing(need) {
		errs = append(errs, fmt.Errorf("package %s does not work after its installation: %w", l.Name, l.Err))
	}
	return errors.Join(errs...)
}
