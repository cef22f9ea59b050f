// Command preflight comes before the lab is built, which takes minutes on a fresh
// machine: it says at once what is missing, with exit code 2, and installs the Debian
// packages that builds and lab need.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/petiole-io/petiole/internal/lab/host"
)

func main() {
	err := run()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, host.ErrUnfit) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run() error {
	if err := host.Check(); err != nil {
		return err
	}
	need := host.Missing()
	if len(need) == 0 {
		return nil
	}
	fmt.Println("installing Debian packages:", strings.Join(need, " "))
	if err := host.Install(os.Stdout, need); err != nil {
		return err
	}
	if still := host.Missing(); len(still) > 0 {
		return fmt.Errorf("still missing after installation: %s", strings.Join(still, " "))
	}
	return nil
}
