package daemon

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDaemonLifecycle(t *testing.T) {
	dir := t.TempDir()
	s := Set{RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log")}
	childFile := filepath.Join(dir, "child")
	d := Daemon{Name: "x", Path: "/bin/sh", Args: []string{"-c", "echo started; sleep 1000 & echo $! > $CHILD.new && mv $CHILD.new $CHILD; wait"}, Env: []string{"CHILD=" + childFile}}
	t.Cleanup(func() {
		if err := s.Kill("x"); err != nil {
			t.Error(err)
		}
	})
	if started, err := s.Start(d); err != nil || !started {
		t.Fatalf("first start: %v, %v", started, err)
	}
	pid, running := s.PID("x")
	if !running {
		t.Fatal("not running after start")
	}
	if started, err := s.Start(d); err != nil || started {
		t.Errorf("second start: %v, %v, want nothing to happen", started, err)
	}
	if again, _ := s.PID("x"); again != pid {
		t.Errorf("process changed from %d to %d", pid, again)
	}
	var child []byte
	if !await(5*time.Second, func() bool { var err error; child, err = os.ReadFile(childFile); return err == nil }) {
		t.Fatal("the daemon's child does not start")
	}
	childPID, err := strconv.Atoi(strings.TrimSpace(string(child)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop("x", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if !await(5*time.Second, func() bool { p, err := readProcess(childPID); return err != nil || p.state == "Z" }) {
		t.Error("a process of the daemon's session lives on")
	}
	if _, running := s.PID("x"); running {
		t.Error("running after stop")
	}
	if log, err := os.ReadFile(s.LogFile("x")); err != nil || string(log) != "started\n" {
		t.Errorf("log %q, %v", log, err)
	}
	if err := s.Stop("x", time.Second); err != nil {
		t.Errorf("stop of a daemon that does not run: %v", err)
	}
}

// TestReusedPID: a record whose process id now belongs to another process is not taken
// for the daemon, and the other process is left alone.
func TestReusedPID(t *testing.T) {
	dir := t.TempDir()
	s := Set{RunDir: dir, LogDir: dir}
	stale := `{"pid":` + strconv.Itoa(syscall.Getpid()) + `,"started":"1"}`
	if err := os.WriteFile(s.recordFile("x"), []byte(stale), 0o644); err != nil {
		t.Fatal(err)
	}
	if pid, running := s.PID("x"); running {
		t.Errorf("process %d is taken for the daemon", pid)
	}
}
