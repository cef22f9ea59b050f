package join

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Machine is the machine that joins. Host returns the one that the process runs on.
type Machine struct {
	// Root is put before the paths of the system that are only read: "" or, in a test, a folder.
	Root string
	// ConfigDir and DataDir are the folders of the leaf, UnitDir that of systemd units.
	ConfigDir, DataDir, UnitDir string
	// Executable is the leaf.
	Executable string
	UID        int
	Hostname   string
	Now        func() time.Time
	// Systemctl runs systemctl; nil on a machine without systemd.
	Systemctl func(ctx context.Context, args ...string) error
	// Addresses are those that the leaf and its kubelet listen on.
	Addresses []string
	// Metrics is the address of the leaf's metrics.
	Metrics string
}

// metricsAddress is that of leaf.yaml.
const metricsAddress = "127.0.0.1:10443"

// Host returns this machine.
func Host() (Machine, error) {
	executable, err := os.Executable()
	if err != nil {
		return Machine{}, err
	}
	if executable, err = filepath.EvalSymlinks(executable); err != nil {
		return Machine{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return Machine{}, err
	}
	m := Machine{
		ConfigDir: "/etc/petiole", DataDir: "/var/lib/petiole", UnitDir: "/etc/systemd/system",
		Executable: executable, UID: os.Geteuid(), Hostname: strings.ToLower(host), Now: time.Now,
		Addresses: []string{"127.0.0.1:10441", metricsAddress, ":10250", "127.0.0.1:10248"}, Metrics: metricsAddress,
	}
	// As sd_booted(3) does.
	if info, err := os.Lstat("/run/systemd/system"); err == nil && info.IsDir() {
		m.Systemctl = func(ctx context.Context, args ...string) error {
			out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
			if err != nil {
				return commandError{"systemctl " + strings.Join(args, " "), strings.TrimSpace(string(out)), err}
			}
			return nil
		}
	}
	return m, nil
}

// commandError is the failure of a command, with what it has printed.
type commandError struct {
	command, output string
	err             error
}

func (e commandError) Error() string { return e.command + ": " + e.err.Error() + ": " + e.output }
func (e commandError) Unwrap() error { return e.err }

// active reports whether systemd runs the leaf.
func (m Machine) active(ctx context.Context) bool {
	return m.Systemctl != nil && m.Systemctl(ctx, "is-active", "--quiet", unitName) == nil
}

// read returns a file of the system, empty if it cannot be read.
func (m Machine) read(path string) string {
	data, err := os.ReadFile(filepath.Join(m.Root, path))
	if err != nil {
		return ""
	}
	return string(data)
}

func (m Machine) exists(path string) bool {
	_, err := os.Stat(filepath.Join(m.Root, path))
	return err == nil
}

// Paused calls work while the leaf does not run: if systemd runs it, it is stopped before and started
// afterwards.
func (m Machine) Paused(ctx context.Context, progress func(format string, args ...any), work func(context.Context) error) error {
	if !m.active(ctx) {
		return work(ctx)
	}
	progress("stopping %s; pods go on", unitName)
	if err := m.Systemctl(ctx, "stop", unitName); err != nil {
		return fmt.Errorf("stop the leaf: %w", err)
	}
	err := work(ctx)
	progress("starting %s", unitName)
	if startErr := m.Systemctl(context.WithoutCancel(ctx), "start", unitName); startErr != nil { // also when the command was interrupted
		err = errors.Join(err, fmt.Errorf("start the leaf: %w", startErr))
	}
	return err
}
