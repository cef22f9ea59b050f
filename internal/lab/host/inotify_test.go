package host

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInotifyInstancesAreCounted(t *testing.T) {
	count := func() int {
		n, err := countInotify("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got := count(); got != before+1 {
		t.Errorf("this process has %d instances, want %d", got, before+1)
	}
	i, err := MeasureInotify()
	if err != nil {
		t.Fatal(err)
	}
	if i.Open < 1 || i.Max < 1 {
		t.Errorf("measured %+v, want at least the open one of a positive limit", i)
	}
	if n, err := countInotify(t.TempDir() + "/ended"); n != 0 || err != nil {
		t.Errorf("a process that has ended has %d instances, %v", n, err)
	}
}

func TestFewInotifyInstancesAreNamed(t *testing.T) {
	if text := (Inotify{Open: 96, Max: 128}).String(); text != "" {
		t.Errorf("32 are left, and it says %q", text)
	}
	text := Inotify{Open: 97, Max: 128}.String()
	for _, want := range []string{"fs.inotify.max_user_instances is 128", "97 are open", "sysctl -w fs.inotify.max_user_instances=1024"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not contain %q", text, want)
		}
	}
}
