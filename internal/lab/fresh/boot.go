package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// devices are those that a booted box has.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse"}

// ownDevices fills /dev of a box whose process 1 becomes systemd, which must not find those of the
// machine: it opens the console, and changes modes.
func ownDevices(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	for _, name := range devices {
		from, to := filepath.Join("/dev", name), filepath.Join(dir, name)
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.WriteFile(to, nil, 0o600); err != nil {
			return fmt.Errorf("create %s: %w", to, err)
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", from, to, err)
		}
	}
	for name, target := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	for _, name := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return fmt.Errorf("create /dev/%s: %w", name, err)
		}
	}
	return nil
}

// masked are units that are of no use in a box, or would set what belongs to the machine's kernel.
var masked = []string{"console-getty.service", "getty.target", "systemd-sysctl.service", "systemd-modules-load.service", "systemd-remount-fs.service"}

// boot installs packages, systemd among them, and makes systemd process 1 in the place of this one.
// It returns only with an error.
func boot(packages []string, log *os.File) error {
	for _, name := range masked {
		path := filepath.Join("/etc/systemd/system", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
		if err := os.Symlink(os.DevNull, path); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	for _, args := range [][]string{
		{"apt-get", "update", "-q"},
		append([]string{"apt-get", "install", "-y", "-q", "--no-install-recommends"}, packages...),
	} {
		recent := &tail{log: log}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = recent, recent
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%v: %w; its last lines: %q", args, err, recent.lines(5))
		}
	}
	if err := log.Close(); err != nil {
		return err
	}
	// container has systemd know that it is not the machine's, see systemd(1).
	err := unix.Exec("/sbin/init", []string{"/sbin/init", "--show-status=no"}, []string{"container=" + boxCgroup, "PATH=" + os.Getenv("PATH")})
	return fmt.Errorf("start systemd: %w", err)
}

// bootTime bounds the installation of packages and the start of systemd.
const bootTime = 5 * time.Minute

// awaitSystemd returns when systemd has started everything.
func (r *running) awaitSystemd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	for {
		state, err := r.command(ctx, "systemctl", "is-system-running", "--wait").Output()
		switch string(bytes.TrimSpace(state)) {
		case "running", "degraded": // what does not start in a box is not what is tried here
			return nil
		}
		select {
		case err := <-r.ended:
			r.ended <- err
			return fmt.Errorf("%s has not started: %w", r.name, err)
		case <-ctx.Done():
			return fmt.Errorf("%s has not started within %v: %q, %w", r.name, bootTime, state, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// command returns a command that runs in the box.
func (r *running) command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{
		"--target", strconv.Itoa(r.process.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wdns=" + home,
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = environment
	return cmd
}

// end ends the box.
func (r *running) end() error {
	_ = r.process.Process.Kill() // it may have ended
	err := <-r.ended
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = nil // it was killed
	}
	return errors.Join(err, r.server.Close())
}
