package host

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const gb = 1000 * mb

// requirements returns those of a first build on a machine with one disk, and with /tmp in
// memory if tmp is not 0.
func requirements(free, tmp, memory uint64, links int) Requirements {
	r := Requirements{
		First: true, Links: links, Memory: memory,
		Demands: demands(true, true, "/root/go/pkg/mod", "/root/.cache/go-build", "/tmp", "/src/.lab"),
		free: func(dir string) (volume, error) {
			if dir == "/tmp" && tmp > 0 {
				return volume{id: 2, free: tmp, memory: true}, nil
			}
			return volume{id: 1, free: free}, nil
		},
	}
	return r
}

func TestRequirements(t *testing.T) {
	for name, c := range map[string]struct {
		needs Requirements
		want  []string // nil: there is enough
		not   []string
	}{
		"plenty": {requirements(100*gb, 0, 16*gb, 2), nil, nil},
		"disk": {requirements(9*gb, 0, 16*gb, 2), []string{
			"disk: 9.0 GB free", "3.2 GB for the module cache in /root/go/pkg/mod", "5.5 GB for the build cache in /root/.cache/go-build",
			"5.0 GB for the go command's work folder in /tmp", "/src/.lab", "GOMODCACHE or GOCACHE or GOTMPDIR",
		}, []string{"memory"}},
		"memory":             {requirements(100*gb, 0, 4*gb, 2), []string{"memory: 4.0 GB available, 7.0 GB needed", "-p=1"}, []string{"disk:"}},
		"memory of one link": {requirements(100*gb, 0, 4*gb, 1), nil, nil},
		"too little for one": {requirements(100*gb, 0, 3*gb, 1), []string{"memory: 3.0 GB available, 3.5 GB needed"}, []string{"-p=1"}},
		"both":               {requirements(gb, 0, gb, 2), []string{"disk: ", "memory: "}, nil},
		"tmpfs, enough":      {requirements(100*gb, 8*gb, 16*gb, 2), nil, nil},
		"tmpfs takes memory": {requirements(100*gb, 8*gb, 11*gb, 2), []string{"memory: 11.0 GB available, 12.0 GB needed", "GOTMPDIR set to a folder on a disk"}, nil},
		"tmpfs is small":     {requirements(100*gb, 4*gb, 32*gb, 2), []string{"disk: 4.0 GB free, 5.0 GB needed", "GOTMPDIR"}, []string{"GOCACHE"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.needs.Check()
			if (err == nil) != (c.want == nil) || (err != nil && !errors.Is(err, ErrUnfit)) {
				t.Fatalf("error %v", err)
			}
			text := fmt.Sprint(err)
			for _, w := range c.want {
				if !strings.Contains(text, w) {
					t.Errorf("%q is not in: %s", w, text)
				}
			}
			for _, w := range c.not {
				if strings.Contains(text, w) {
					t.Errorf("%q is in: %s", w, text)
				}
			}
		})
	}
}

func TestRequirementsArePrintedOnce(t *testing.T) {
	r := requirements(100*gb, 0, 16*gb, 2)
	for _, want := range []string{"first build: up to ", "15.2 GB of disk (100.0 GB free", "7.0 GB of memory (16.0 GB available)"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("%q is not in: %s", want, r)
		}
	}
	r.First, r.Memory = false, 0
	r.Demands = demands(false, false, "", "", "/tmp", "/src/.lab")
	if r.String() != "" || r.Check() != nil {
		t.Errorf("everything is built: %q, %v", r.String(), r.Check())
	}
}

func TestLinks(t *testing.T) {
	for _, c := range []struct {
		flags      string
		cpus, want int
	}{{"", 1, 1}, {"-trimpath", 8, 2}, {"-trimpath -p=1", 8, 1}, {"-p=x", 2, 2}, {"-p=4", 1, 2}} {
		if got := links(c.flags, c.cpus); got != c.want {
			t.Errorf("%q on %d: %d, want %d", c.flags, c.cpus, got, c.want)
		}
	}
}

func TestMemAvailable(t *testing.T) {
	if n, err := memAvailable("MemTotal: 9 kB\nMemAvailable:    1024 kB\n"); n != 1<<20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := memAvailable("MemTotal: 9 kB\n"); err == nil {
		t.Error("no error without MemAvailable")
	}
}

func TestFreeAtAFolderThatDoesNotExist(t *testing.T) {
	dir := t.TempDir()
	want, err := freeAt(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := freeAt(dir + "/not/yet")
	if err != nil || got.id != want.id {
		t.Errorf("%+v, %v, want the file system %+v", got, err, want)
	}
}
