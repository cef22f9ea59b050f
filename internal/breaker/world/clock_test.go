package world

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestShiftClock sets the wall clock of a child process a year ahead, a day back and
// right again. Its monotonic clock and the clock of this process do not move.
func TestShiftClock(t *testing.T) {
	if os.Getenv("PETIOLE_TELL_TIME") != "" {
		tellTime()
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestShiftClock$")
	child.Env = append(os.Environ(), "PETIOLE_TELL_TIME=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(out)
	ask := func() (off, passed time.Duration) {
		t.Helper()
		if _, err := fmt.Fprintln(in, "now"); err != nil {
			t.Fatal(err)
		}
		if !answers.Scan() {
			t.Fatalf("the child says nothing: %v", answers.Err())
		}
		wall, mono, _ := strings.Cut(answers.Text(), " ")
		unix, err := strconv.ParseInt(wall, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if passed, err = time.ParseDuration(mono); err != nil {
			t.Fatal(err)
		}
		return time.Until(time.Unix(0, unix)).Round(time.Second), passed
	}
	var last time.Duration
	for _, shift := range []time.Duration{0, 365 * 24 * time.Hour, -24 * time.Hour, 0} {
		if err := ShiftClock(child.Process.Pid, shift); err != nil {
			t.Fatal(err)
		}
		off, passed := ask()
		if off != shift {
			t.Errorf("the child's clock is %s off, want %s", off, shift)
		}
		if passed < last || passed > last+time.Minute {
			t.Errorf("the child's monotonic clock went from %s to %s", last, passed)
		}
		last = passed
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

// tellTime answers each line with the wall clock and the time since the start.
func tellTime() {
	start := time.Now()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		now := time.Now()
		fmt.Println(now.UnixNano(), now.Sub(start))
	}
}
