package pages

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestRelease(t *testing.T) {
	before := filePages(t)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	after := filePages(t)
	t.Logf("%d KiB of files were mapped, then %d", before, after)
	if after >= before {
		t.Errorf("%d KiB of files are mapped, before %d", after, before)
	}
}

// filePages returns the KiB of files that are in this process's memory.
func filePages(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var n int
		if _, err := fmt.Sscanf(line, "RssFile: %d kB", &n); err == nil {
			return n
		}
	}
	t.Fatalf("no line RssFile in %s", status)
	return 0
}

func TestUnchanged(t *testing.T) {
	const smaps = `00400000-01000000 r-xp 00000000 fe:00 12 /usr/bin/leaf
Rss:                 100 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01000000-02000000 r--p 00c00000 fe:00 12 /usr/bin/leaf
Anonymous:             4 kB
02000000-02100000 rw-p 01c00000 fe:00 12 /usr/bin/leaf
Anonymous:             0 kB
c000000000-c004000000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:00 13 /usr/lib/libc.so.6
Anonymous:             0 kB
`
	got, err := unchanged(strings.NewReader(smaps), "/usr/bin/leaf")
	if want := []mapping{{0x400000, 0x1000000}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
}
