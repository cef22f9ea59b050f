package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/petiole-io/petiole/internal/lab/mounts"
)

// cacheAge is the age up to which a bare root is reused.
const cacheAge = 7 * 24 * time.Hour

// cachedRoots is the folder of the bare roots, in the user's cache.
const cachedRoots = "petiole/fresh"

func rootFolder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache: %w", err)
	}
	return filepath.Join(cache, cachedRoots), nil
}

// makeRoot fills the box with a bare Debian, as debootstrap creates it.
func (b box) makeRoot(ctx context.Context, m mirror, out progress) error {
	dir, err := rootFolder()
	if err != nil {
		return err
	}
	archive := filepath.Join(dir, "minbase-"+b.suite+"-"+runtime.GOARCH+".tar")
	if info, err := os.Stat(archive); err != nil || time.Since(info.ModTime()) > cacheAge {
		out.say("debootstrap (about a minute; it is kept for %d days)", int(cacheAge.Hours()/24))
		if err := b.debootstrap(ctx, m, archive); err != nil {
			return err
		}
		// The tested root is always the unpacked archive, cached or not.
		if err := emptyFolder(b.root); err != nil {
			return err
		}
	}
	if err := command(ctx, "tar", "-C", b.root, "--numeric-owner", "--xattrs", "-xf", archive); err != nil {
		return err
	}
	// Files that an installer writes and debootstrap does not.
	hosts := fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s\n", b.name)
	for file, text := range map[string]string{"etc/hosts": hosts, "etc/hostname": b.name + "\n", "etc/apt/apt.conf.d/99dates": m.checks} {
		if err := os.WriteFile(b.path(file), []byte(text), 0o644); err != nil {
			return fmt.Errorf("complete the root: %w", err)
		}
	}
	return nil
}

// debootstrap creates an archive of a bare root.
func (b box) debootstrap(ctx context.Context, m mirror, archive string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve packages: %w", err)
	}
	server := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	defer server.Close()
	go server.Serve(listener) //nolint:errcheck // its end is Close
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", b.suite, b.root, "http://"+listener.Addr().String())
	cmd.Env = append(os.Environ(), "no_proxy=127.0.0.1")
	// What it mounts and starts ends with it, also when it is interrupted.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("debootstrap %s: %w: %s", b.suite, err, strings.Join(lastLines(string(out), 5), "\n"))
	}
	debs, err := filepath.Glob(b.path("var/cache/apt/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := os.Remove(deb); err != nil {
			return fmt.Errorf("remove the remains of debootstrap: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return fmt.Errorf("keep the root: %w", err)
	}
	half := archive + ".half"
	if err := command(ctx, "tar", "-C", b.root, "--numeric-owner", "--xattrs", "-cf", half, "."); err != nil {
		return errors.Join(err, os.Remove(half))
	}
	return os.Rename(half, archive)
}

// removeRoot removes a root that nothing is mounted in.
func removeRoot(dir string) error {
	if err := mounts.Detach(dir); err != nil {
		return err
	}
	left, err := mounts.Below(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("remove %s: still mounted: %s", dir, strings.Join(left, " "))
	}
	return os.RemoveAll(dir)
}

func emptyFolder(dir string) error {
	if err := removeRoot(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.Join(lastLines(string(out), 5), "\n"))
	}
	return nil
}

func lastLines(text string, n int) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return lines[max(0, len(lines)-n):]
}
