// Command gateway is the first program of the gateway in deploy/compose. It turns its container into
// a machine on which containers run, starts CRI-O, joins the site with `leaf join`, as a person would,
// and runs the leaf. It ends when one of them does, and Docker starts the container again: that is a
// power cycle.
//
// The container needs neither --privileged nor CAP_SYS_RESOURCE, and the machine may have cgroup v1
// or v2.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/mounts"
)

func init() {
	// A namespace is a thread's: the first one enters it and becomes the whole process.
	runtime.LockOSThread()
}

func main() {
	var g gateway
	inside := flag.Bool("inside", false, "the container is prepared")
	flag.StringVar(&g.url, "url", "tls://hub:7422", "`URL` of the hub's leaf listener")
	flag.StringVar(&g.token, "token", "/var/lib/join/token", "`file` of the join token")
	flag.StringVar(&g.web, "web-config", "/var/lib/join/web.yaml", "web configuration `file` of the leaf's metrics")
	flag.StringVar(&g.images, "images", "registry:5000", "host and port of the registry with the lab's images")
	flag.StringVar(&g.slave, "modbus", "modbus:502", "host and port of the Modbus slave")
	flag.Parse()
	var err error
	if *inside {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = g.run(ctx)
		stop()
	} else {
		err = prepare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// prepare changes what Docker mounts for a container without --privileged, and starts this program
// again inside.
func prepare() error {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	// The container's cgroup becomes the root of what programs see, also where Docker has not made
	// a namespace for it (cgroup v1), and can be written.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("create a cgroup namespace: %w", err)
	}
	const top = "/sys/fs/cgroup"
	if err := mounts.Detach(top); err != nil {
		return err
	}
	if err := unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("make /sys writable: %w", err)
	}
	if err := cgroup.Mount(top, cgroup.Mounted(mountinfo)); err != nil {
		return err
	}
	if err := cgroup.LeaveTop(); err != nil {
		return err
	}
	// The network plugins and the kubelet set what is below /proc/sys, which Docker has mounted
	// read-only over itself.
	if err := unix.Unmount("/proc/sys", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("make /proc/sys writable: %w", err)
	}
	// What the kubelet mounts must reach the containers.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	err = syscall.Exec("/proc/self/exe", append([]string{os.Args[0], "--inside"}, os.Args[1:]...), os.Environ())
	return fmt.Errorf("start again: %w", err)
}
