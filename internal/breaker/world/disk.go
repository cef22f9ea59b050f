package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diskSize is the size of a site's disk; the file is sparse.
	diskSize = 224 << 20
	// ext4Shutdown is EXT4_IOC_SHUTDOWN; with noLogFlush what was not synced is lost, as
	// when the power fails.
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
	// fiFreeze and fiThaw are FIFREEZE and FITHAW of linux/fs.h.
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
	ballast  = "ballast"
)

// Disk is a small ext4 file system in a file, mounted through a loop device.
type Disk struct {
	// Image is the file, Dir its mount point.
	Image, Dir string
}

// Create creates an empty file system in the image.
func (d Disk) Create() error {
	f, err := os.Create(d.Image)
	if err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	return command("mkfs.ext4", "-q", "-F", "-m", "0", d.Image)
}

// Mount mounts it, after the journal was replayed.
func (d Disk) Mount() error {
	if err := os.MkdirAll(d.Dir, 0o755); err != nil {
		return fmt.Errorf("mount disk: %w", err)
	}
	return command("mount", "-t", "ext4", "-o", "loop", d.Image, d.Dir)
}

// Unmount waits for processes that were killed a moment ago, and until nothing holds the
// file system: a container that is being created has a copy of all mounts, and a mount
// meanwhile would find the file system as it was left.
func (d Disk) Unmount() error {
	unmounted := false
	for range 200 {
		if !unmounted {
			err := unix.Unmount(d.Dir, 0)
			unmounted = err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
		}
		if unmounted {
			if used, err := d.attached(); err != nil || !used {
				return err
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("unmount %s: it is in use (unmounted here: %t)", d.Dir, unmounted)
}

// attached reports whether a loop device has the image.
func (d Disk) attached() (bool, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return false, err
	}
	for _, f := range files {
		image, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
			continue // released in between
		}
		if err != nil {
			return false, fmt.Errorf("read whose %s is: %w", f, err)
		}
		if strings.TrimSuffix(strings.TrimSpace(string(image)), " (deleted)") == d.Image {
			return true, nil
		}
	}
	return false, nil
}

// CutPower makes every further access fail and discards what was not synced. The file
// system must be unmounted and mounted again then.
func (d Disk) CutPower() error {
	flag := uint32(noLogFlush)
	return d.ioctl(func(fd int) error { return unix.IoctlSetPointerInt(fd, ext4Shutdown, int(flag)) })
}

// Copy copies the disk as it is at one moment to file.
func (d Disk) Copy(file string) error {
	return d.ioctl(func(fd int) error {
		if err := unix.IoctlSetInt(fd, fiFreeze, 0); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
		err := command("cp", "--sparse=always", d.Image, file)
		return errors.Join(err, unix.IoctlSetInt(fd, fiThaw, 0))
	})
}

// Restore puts a copy in the place of the disk, which must not be mounted.
func (d Disk) Restore(file string) error {
	return command("cp", "--sparse=always", file, d.Image)
}

// Fill leaves no block free.
func (d Disk) Fill() error {
	var s unix.Statfs_t
	if err := unix.Statfs(d.Dir, &s); err != nil {
		return fmt.Errorf("fill %s: %w", d.Dir, err)
	}
	f, err := os.OpenFile(filepath.Join(d.Dir, ballast), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("fill %s: %w", d.Dir, err)
	}
	defer f.Close()
	offset, step := int64(0), int64(s.Bavail)*s.Bsize
	for step >= s.Bsize {
		err := unix.Fallocate(int(f.Fd()), 0, offset, step)
		switch {
		case err == nil:
			offset += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			return fmt.Errorf("fill %s: %w", d.Dir, err)
		}
	}
	return nil
}

// Free ends a Fill, durably: a power cut does not bring it back.
func (d Disk) Free() error {
	if err := os.Remove(filepath.Join(d.Dir, ballast)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("free %s: %w", d.Dir, err)
	}
	return d.ioctl(unix.Syncfs)
}

func (d Disk) ioctl(act func(fd int) error) error {
	fd, err := unix.Open(d.Dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", d.Dir, err)
	}
	defer unix.Close(fd)
	if err := act(fd); err != nil {
		return fmt.Errorf("disk %s: %w", d.Dir, err)
	}
	return nil
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
