package main

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestChoose(t *testing.T) {
	all, err := choose(modules, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(all); slices.Contains(got, "telegraf") || !slices.Contains(got, "leaf") || !slices.Contains(got, "crio") {
		t.Errorf("the lab's programs are %v", got)
	}
	few, err := choose(modules, []string{"telegraf", "leaf"})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(few); !slices.Equal(got, []string{"leaf", "telegraf"}) {
		t.Errorf("chosen: %v", got)
	}
	if _, err := choose(modules, []string{"laef"}); err == nil || !strings.Contains(err.Error(), `"laef"`) {
		t.Errorf("an unknown program: %v", err)
	}
}

// The go command names the files itself where it builds several programs at once.
func TestNamesAreThoseOfTheGoCommand(t *testing.T) {
	version := regexp.MustCompile(`/v[0-9]+$`)
	for _, m := range modules {
		if len(m.programs) == 1 {
			continue
		}
		for _, p := range m.programs {
			if got := path.Base(version.ReplaceAllString(p.pkg, "")); got != p.name {
				t.Errorf("go build names %s %q, want %q", p.pkg, got, p.name)
			}
		}
	}
}

func TestWhatIsProgress(t *testing.T) {
	b := &builder{progress: newProgress(&bytes.Buffer{}, []string{"leaf"}, "build.log")}
	m := module{dir: "."}
	for line, want := range map[string]bool{
		"k8s.io/api/core/v1":                          true,
		"github.com/google/gnostic-models/jsonschema": true,
		"go: downloading k8s.io/api v0.37.2":          true,
		"# github.com/petiole-io/petiole/leaf":        false,
		"leaf/leaf.go:3:1: syntax error":              false,
		"go: github.com/a/b@v1.0.0: Get \"https://…\": dial tcp: lookup: no such host": false,
	} {
		if got := b.heard(m, line); got != want {
			t.Errorf("%q is progress: %v, want %v", line, got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, []string{"bridge", "leaf", "lab", "crio"}, ".lab/log/build.log")
	p.began = time.Now().Add(-75 * time.Second)
	p.compiling(". a")
	p.expect(". a")
	for _, pkg := range []string{". b", ". c", "deploy/crio a"} {
		p.expect(pkg)
	}
	p.introduce()
	p.status()
	p.built("bridge")
	p.built("bridge") // seen twice
	want := `building 4 programs; the packages go to .lab/log/build.log
  1:15  25 %, 1 of 4 packages compiled; next: bridge, leaf and 2 more
  1:15  bridge built, 1 of 4; next: leaf, lab, crio
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// A build that has nothing to do says nothing.
func TestNothingToDoIsSilent(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, []string{"leaf"}, "build.log")
	p.built("leaf")
	p.finish()
	if out.Len() > 0 {
		t.Errorf("printed %q", out.String())
	}
}

func TestCompilersStayWithinTheMemory(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		available uint64
		cores     int
		want      []string
	}{
		{4 * gib, 2, []string{"GOGC=400"}},
		{24 * gib, 2, []string{"GOGC=off", "GOMEMLIMIT=4294967296"}},
		{24 * gib, 64, []string{"GOGC=400"}},
	} {
		if got := collection(c.available, c.cores); !slices.Equal(got, c.want) {
			t.Errorf("%d bytes, %d cores: %v, want %v", c.available, c.cores, got, c.want)
		}
	}
}
