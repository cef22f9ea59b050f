package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
)

func init() {
	// Namespaces are a thread's. What this process starts is started by its first thread,
	// which is the one that boxInit moves.
	if len(os.Args) > 1 && os.Args[1] == asInit {
		runtime.LockOSThread()
	}
}

// boxInit is process 1 of the box. It makes a machine of the root, starts its user, and
// waits for whatever ends until the user has. It exits with the user's code.
func boxInit() error {
	var s settings
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("create a cgroup namespace: %w", err)
	}
	if err := enterRoot(s); err != nil {
		return err
	}
	if err := cgroup.LeaveTop(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(filepath.Base(s.Root))); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	sources := fmt.Sprintf("deb %s %s main\n", s.Mirror, s.Suite)
	if err := os.WriteFile("/etc/apt/sources.list", []byte(sources), 0o644); err != nil {
		return fmt.Errorf("write sources of apt: %w", err)
	}
	log := os.NewFile(3, "log")
	if len(s.Boot) > 0 {
		return boot(s.Boot, log)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start the user: %w", err)
	}
	user, err := os.StartProcess("/proc/self/exe", []string{"fresh", asUser}, &os.ProcAttr{
		Dir: filepath.Join(home, "petiole"), Env: append(os.Environ(), "SUITE="+s.Suite, "TOUR="+s.Tour, "STARTED="+s.Started.Format(time.RFC3339)),
		Files: []*os.File{null, os.Stdout, os.Stderr, log},
	})
	if err != nil {
		return fmt.Errorf("start the user: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		case pid == user.Pid && status.Exited():
			os.Exit(status.ExitStatus())
		case pid == user.Pid:
			return fmt.Errorf("the user was ended by %v", status.Signal())
		}
	}
}

// enterRoot mounts what a running Debian has mounted, and makes the root "/".
func enterRoot(s settings) error {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	steps := []struct {
		from, to, kind string
		flags          uintptr
		options        string
	}{
		{s.Root, "", "", unix.MS_BIND, ""},
		{"proc", "proc", "proc", 0, ""},
		{"sysfs", "sys", "sysfs", 0, ""},
		{"/dev", "dev", "", unix.MS_BIND, ""}, // or, with systemd, devices of its own
		{"devpts", "dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620"},
		{"tmpfs", "dev/shm", "tmpfs", 0, "mode=1777"},
		{"tmpfs", "run", "tmpfs", 0, "mode=755"},
	}
	for _, m := range steps {
		to := filepath.Join(s.Root, m.to)
		if m.to == "dev" && len(s.Boot) > 0 {
			if err := ownDevices(to); err != nil {
				return err
			}
			continue
		}
		if err := unix.Mount(m.from, to, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.from, to, err)
		}
	}
	if err := cgroup.Mount(filepath.Join(s.Root, "sys/fs/cgroup"), cgroup.Mounted(mountinfo)); err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if err := bind(m.From, filepath.Join(s.Root, m.To), m.ReadOnly); err != nil {
			return err
		}
	}
	if err := unix.Chdir(s.Root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// See pivot_root(2): the old root is stacked below the new one, and taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// As systemd does: what the kubelet mounts must reach the containers.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

func bind(from, to string, readOnly bool) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("create %s: %w", to, err)
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", from, to, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s read-only: %w", to, err)
	}
	return nil
}
