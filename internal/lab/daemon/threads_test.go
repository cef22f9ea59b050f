package daemon

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// firstThreadEnds has this program listen and end its first thread, as a SIGKILL does before the others.
const firstThreadEnds = "DAEMON_TEST_LISTEN"

func init() {
	address := os.Getenv(firstThreadEnds)
	if address == "" {
		return
	}
	runtime.LockOSThread() // it is the first one
	listening := make(chan error)
	go func() {
		_, err := net.Listen("tcp", address)
		listening <- err
		time.Sleep(time.Hour)
	}()
	if err := <-listening; err != nil {
		panic(err)
	}
	unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

// TestThreadsThatAreLeft: a daemon whose first thread has ended runs as long as another does, since it
// has its port. It was taken for dead, and the one that was started in its place did not get the port.
func TestThreadsThatAreLeft(t *testing.T) {
	s := newSet(t)
	d := Daemon{Name: "x", Path: os.Args[0], Env: []string{firstThreadEnds + "=127.0.0.1:0"}}
	if _, err := s.Start(d); err != nil {
		t.Fatal(err)
	}
	pid, running := s.PID("x")
	if !await(20*time.Second, func() bool { p, err := readProcess(pid); return err == nil && p.state == "Z" }) || !running {
		t.Fatal("the first thread does not end")
	}
	if _, running := s.PID("x"); !running {
		t.Error("it has ended although a thread is left")
	}
	if err := s.Kill("x"); err != nil {
		t.Fatal(err)
	}
	if p, err := readProcess(pid); err == nil && !p.ended() {
		t.Errorf("%d threads are left after Kill", p.threads)
	}
}
