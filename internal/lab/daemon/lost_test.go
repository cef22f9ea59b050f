package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newSet(t *testing.T) Set {
	dir := t.TempDir()
	return Set{RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log")}
}

// start runs a shell script as the daemon x until the test ends. The script's folder makes
// its command line unique.
func start(t *testing.T, s Set, script string) Daemon {
	t.Helper()
	d := Daemon{Name: "x", Path: "/bin/sh", Args: []string{"-c", script, s.RunDir}}
	if started, err := s.Start(d); err != nil || !started {
		t.Fatalf("start: %v, %v", started, err)
	}
	t.Cleanup(func() {
		if err := s.Kill("x"); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestLostRecord: a daemon whose record was lost, damaged, or not written because the
// command that started it was killed, is not started a second time, and can be stopped.
func TestLostRecord(t *testing.T) {
	for name, lose := range map[string]func(record string) error{
		"removed": os.Remove,
		"empty":   func(record string) error { return os.WriteFile(record, nil, 0o644) },
		"cut":     func(record string) error { return os.Truncate(record, 7) },
		"no pid":  func(record string) error { return os.WriteFile(record, []byte("{}"), 0o644) },
		"stale":   func(record string) error { return os.WriteFile(record, []byte(`{"pid":1,"started":"0"}`), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSet(t)
			d := start(t, s, "sleep 1000; true")
			pid, _ := s.PID("x")
			if err := lose(s.recordFile("x")); err != nil {
				t.Fatal(err)
			}
			started, err := s.Start(d)
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := s.PID("x"); started || again != pid {
				t.Errorf("process %d runs; started again: %v, as process %d", pid, started, again)
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			if err := s.Stop("x", time.Second); err != nil {
				t.Fatal(err)
			}
			if p, err := readProcess(pid); err == nil && p.state != "Z" {
				t.Error("the daemon runs after stop")
			}
		})
	}
}

// TestDamagedRecordOfNothing: a damaged record is no obstacle when nothing runs.
func TestDamagedRecordOfNothing(t *testing.T) {
	s := newSet(t)
	if err := os.MkdirAll(s.RunDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.recordFile("x"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop("x", time.Second); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.recordFile("x")); !os.IsNotExist(err) {
		t.Errorf("the record is still there: %v", err)
	}
}

// TestChildrenOfADeadDaemon: what a daemon that was killed by hand leaves behind ends
// before it is started again.
func TestChildrenOfADeadDaemon(t *testing.T) {
	s := newSet(t)
	d := start(t, s, "sleep 1000 & echo $!; wait")
	var lines []string
	if !await(5*time.Second, func() bool { lines, _ = s.Log("x"); return len(lines) == 1 }) {
		t.Fatal("the child does not start")
	}
	child, err := strconv.Atoi(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := s.PID("x")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !await(5*time.Second, func() bool { return s.Ended("x") }) {
		t.Fatal("the daemon is not seen to have ended")
	}
	if started, err := s.Start(d); err != nil || !started {
		t.Fatalf("start again: %v, %v", started, err)
	}
	if p, err := readProcess(child); err == nil && p.state != "Z" {
		t.Error("the child of the dead daemon lives on")
	}
}

// TestEnded: only what ended by itself is said to have ended.
func TestEnded(t *testing.T) {
	s := newSet(t)
	if s.Ended("x") {
		t.Error("never started, and said to have ended")
	}
	start(t, s, "read line; exit 3") // standard input is empty
	if !await(5*time.Second, func() bool { return s.Ended("x") }) {
		t.Error("not said to have ended")
	}
	if err := s.Stop("x", time.Second); err != nil {
		t.Fatal(err)
	}
	if s.Ended("x") {
		t.Error("stopped, and said to have ended")
	}
}

// TestLogOfTheLastStart: lines of an earlier start are not shown for those of the last.
func TestLogOfTheLastStart(t *testing.T) {
	s := newSet(t)
	d := start(t, s, "echo one; echo two")
	read := func(want ...string) {
		t.Helper()
		var lines []string
		if !await(5*time.Second, func() bool { lines, _ = s.Log("x"); return slices.Equal(lines, want) && s.Ended("x") }) {
			t.Errorf("log is %q, want %q", lines, want)
		}
	}
	read("one", "two")
	d.Args[1] = "true"
	if _, err := s.Start(d); err != nil {
		t.Fatal(err)
	}
	read()
	d.Args[1] = "for i in $(seq 40000); do echo line $i; done"
	if _, err := s.Start(d); err != nil {
		t.Fatal(err)
	}
	var lines []string
	if !await(20*time.Second, func() bool {
		lines, _ = s.Log("x")
		return len(lines) > 0 && lines[len(lines)-1] == "line 40000"
	}) {
		t.Fatal("no end of the log")
	}
	if len(lines) > 30000 || !strings.HasPrefix(lines[0], "line ") {
		t.Errorf("%d lines, the first is %q", len(lines), lines[0])
	}
}
