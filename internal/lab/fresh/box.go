package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
)

// Where things are inside the box.
const (
	home   = "/root"
	goRoot = "/usr/local/go"
)

// The arguments that this program starts itself with: as process 1 of the box, and as its
// user.
const (
	asInit = "box-init"
	asUser = "box-user"
)

// boxCgroup begins the name of the cgroup of a box. One run at a time is allowed on a machine.
const boxCgroup = "petiole-fresh"

// box is a root file system and the namespaces in which it is a machine of its own.
type box struct{ name, suite, root string }

// environment is that of the box's processes.
var environment = []string{
	"HOME=" + home, "LANG=C.UTF-8", "TERM=dumb", "GOTOOLCHAIN=local",
	// Nothing but the caller's module cache is reachable, and what is in it was verified.
	"GOPROXY=file://" + home + "/go/pkg/mod/cache/download", "GOSUMDB=off",
	"PATH=" + goRoot + "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}

// settings is the configuration of process 1 of the box.
type settings struct {
	Suite, Root, Tour string
	Started           time.Time
	Mounts            []mount
	// Mirror is the address of the package mirror in the box.
	Mirror string
	// Boot are packages that are installed. With them process 1 becomes systemd, and there is no
	// user.
	Boot []string
}

// lock excludes other runs until release is called. It prints a line if it has to wait.
func lock(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create %s: %w", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		fmt.Println("waiting for another run to end")
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// newBox creates an empty box. The remains of a run that was killed are removed.
func newBox(dir, name, suite string) (box, error) {
	b := box{name: name, suite: suite, root: filepath.Join(dir, name)}
	if err := b.remove(); err != nil {
		return b, err
	}
	if err := os.MkdirAll(b.root, 0o755); err != nil {
		return b, fmt.Errorf("create root: %w", err)
	}
	return b, nil
}

func (b box) path(parts ...string) string {
	return filepath.Join(append([]string{b.root}, parts...)...)
}

func (b box) cgroup() string { return boxCgroup + "-" + b.name }

func (b box) remove() error {
	return errors.Join(cgroup.Kill(b.cgroup()), cgroup.Remove(b.cgroup()), removeRoot(b.root))
}

// run starts the box and blocks until its user has finished or ctx ends.
func (b box) run(ctx context.Context, m mirror, s settings, log *os.File) error {
	// The kernel ends the box with the thread that has created it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := b.start(ctx, m, s, log)
	if err != nil {
		return err
	}
	defer r.server.Close()
	return <-r.ended
}

// running is a box whose process 1 runs.
type running struct {
	box
	process *exec.Cmd
	server  *http.Server
	// ended has how process 1 has ended.
	ended chan error
}

// start starts the box, in which every process ends with ctx, and with the thread that calls start.
func (b box) start(ctx context.Context, m mirror, s settings, log *os.File) (*running, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", asInit)
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{log}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	input, err := cmd.StdinPipe() // it waits for its settings
	if err != nil {
		return nil, fmt.Errorf("create the box: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("create the box: %w", err)
	}
	r := &running{box: b, process: cmd, server: &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}, ended: make(chan error, 1)}
	err = func() error {
		defer input.Close()
		if err := cgroup.CreateWith(b.cgroup(), cmd.Process.Pid); err != nil {
			return err
		}
		listener, err := listenIn(cmd.Process.Pid)
		if err != nil {
			return err
		}
		go r.server.Serve(listener) //nolint:errcheck // its end is Close
		s.Suite, s.Root, s.Mirror = b.suite, b.root, "http://"+listener.Addr().String()
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if _, err := input.Write(append(text, '\n')); err != nil {
			return fmt.Errorf("send the box its settings: %w", err)
		}
		return nil
	}()
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait(), r.server.Close())
	}
	go func() { r.ended <- cmd.Wait() }()
	return r, nil
}

// listenIn listens on the loopback of a process's network namespace, and brings it up.
func listenIn(pid int) (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result, 1)
	go func() {
		// Not unlocked: the thread has left this process's namespace and ends with this
		// goroutine.
		runtime.LockOSThread()
		l, err := listenHere(fmt.Sprintf("/proc/%d/ns/net", pid))
		done <- result{l, err}
	}()
	r := <-done
	return r.listener, r.err
}

func listenHere(namespace string) (net.Listener, error) {
	ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network of the box: %w", err)
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter network of the box: %w", err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("bring up loopback: %w", err)
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return nil, fmt.Errorf("bring up loopback: %w", err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo); err != nil {
		return nil, fmt.Errorf("bring up loopback: %w", err)
	}
	return net.Listen("tcp4", "127.0.0.1:0")
}
