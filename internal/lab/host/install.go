package host

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
	"strings"
)

// aptOptions bound how long apt waits for another apt, and for a source that is silent.
var aptOptions = []string{"-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"}

// dpkgJournal holds files while dpkg works; those that are left are of one that was
// interrupted, and apt refuses to go on. Tests have another one.
var dpkgJournal = "/var/lib/dpkg/updates"

// Install installs the packages and shows apt's progress on out. Packages that cannot be
// installed do not keep the others away; the error names each with apt's reason.
func Install(ctx context.Context, out io.Writer, pkgs []string) error {
	if len(pkgs) == 0 {
		return nil
	}
	if left, err := filepath.Glob(filepath.Join(dpkgJournal, "[0-9]*")); err == nil && len(left) > 0 {
		fmt.Fprintln(out, "finishing an installation that was interrupted: dpkg --configure -a")
		if _, err := show(ctx, out, "dpkg", "--configure", "-a"); err != nil {
			return err
		}
	}
	// Lists that cannot be read now may still be there from an earlier day.
	_, updateErr := apt(ctx, out, "update")
	if _, err := apt(ctx, out, install(pkgs...)...); err == nil {
		return nil
	}
	refused := map[string]error{}
	for _, p := range pkgs {
		if ctx.Err() != nil {
			return fmt.Errorf("install Debian packages: %w", ctx.Err())
		}
		if output, err := apt(ctx, out, install(p)...); err != nil {
			refused[p] = errors.New(reason(output, err))
		}
	}
	return installError(pkgs, refused, updateErr)
}

func install(pkgs ...string) []string {
	return append([]string{"install", "-y", "--no-install-recommends"}, pkgs...)
}

func apt(ctx context.Context, out io.Writer, args ...string) ([]byte, error) {
	return show(ctx, out, "apt-get", append(slices.Clone(aptOptions), args...)...)
}

// show runs a command with its output on out, and also returns the output.
func show(ctx context.Context, out io.Writer, name string, args ...string) ([]byte, error) {
	var kept bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	cmd.Stdout = io.MultiWriter(out, &kept)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return kept.Bytes(), fmt.Errorf("%s %s: %w%s", name, strings.Join(args, " "), err, lastLine(kept.Bytes()))
	}
	return kept.Bytes(), nil
}

// reason returns the first error that apt printed.
func reason(output []byte, err error) string {
	for line := range strings.Lines(string(output)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "E: "); ok {
			return text
		}
	}
	return err.Error()
}

// installError names the packages that could not be installed and whether the others were.
// It returns nil when there is none.
func installError(pkgs []string, refused map[string]error, updateErr error) error {
	if len(refused) == 0 {
		return nil
	}
	var b strings.Builder
	var installed []string
	fmt.Fprintf(&b, "apt-get could not install %d of %d packages:", len(refused), len(pkgs))
	for _, p := range pkgs {
		if err := refused[p]; err != nil {
			fmt.Fprintf(&b, "\n  - %s: %v", p, err)
		} else {
			installed = append(installed, p)
		}
	}
	if updateErr != nil {
		fmt.Fprintf(&b, "\nThe package lists could not be updated either: %v", updateErr)
	}
	if len(installed) > 0 {
		fmt.Fprintf(&b, "\nThese are installed: %s", strings.Join(installed, " "))
	}
	b.WriteString("\nMend the network or the package sources (/etc/apt), or install them by hand, and run the command again.")
	return errors.New(b.String())
}
