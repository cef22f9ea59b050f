package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRelax(t *testing.T) {
	for name, c := range map[string]struct {
		in, want string
		own      int
	}{
		"both": {
			in:   `{"process":{"oomScoreAdj":-997,"cwd":"/"},"linux":{"resources":{"hugepageLimits":[{"pageSize":"2MB","limit":0}],"memory":{"limit":12345678901234567}}}}`,
			want: `{"process":{"cwd":"/"},"linux":{"resources":{"memory":{"limit":12345678901234567}}}}`,
		},
		"neither":      {in: `{"process":{"cwd":"/"}}`, want: `{"process":{"cwd":"/"}}`},
		"no resources": {in: `{"linux":{"resources":null}}`, want: `{"linux":{"resources":null}}`},
		"burstable":    {in: `{"process":{"oomScoreAdj":2}}`, want: `{"process":{"oomScoreAdj":2}}`},
		"best effort":  {in: `{"process":{"oomScoreAdj":1000}}`, want: `{"process":{"oomScoreAdj":1000}}`},
		"none asked":   {in: `{"process":{"cwd":"/"}}`, want: `{"process":{"cwd":"/"}}`, own: 300},
		"own is kept":  {in: `{"process":{"oomScoreAdj":300}}`, want: `{"process":{"oomScoreAdj":300}}`, own: 300},
		"capabilities": {
			in:   `{"process":{"capabilities":{"bounding":["CAP_KILL","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"]}}}`,
			want: `{"process":{"capabilities":{"bounding":["CAP_KILL"],"effective":[]}}}`,
		},
		"below own": {in: `{"process":{"oomScoreAdj":299}}`, want: `{"process":{}}`, own: 300},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(path, []byte(c.in), 0o600); err != nil {
				t.Fatal(err)
			}
			own := bounds{oomScoreAdj: c.own, lacked: map[string]bool{"CAP_SYS_RESOURCE": true}}
			if err := edit(path, own.relax); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var a, b map[string]any
			if err := json.Unmarshal(got, &a); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &b); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(a, b) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestOption(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "--bundle", "/b", "id"}, "/b"},
		{[]string{"create", "--bundle=/b", "id"}, "/b"},
		{[]string{"create", "-b", "/b", "id"}, "/b"},
		{[]string{"create", "id"}, "."},
	} {
		if got := option(c.args, "--bundle", "-b", "."); got != c.want {
			t.Errorf("option(%q) = %q, want %q", c.args, got, c.want)
		}
	}
}

func TestLacked(t *testing.T) {
	got, err := lacked("Name:\tociwrap\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000000\n")
	if err != nil || len(got) != 1 || !got["CAP_SYS_RESOURCE"] {
		t.Errorf("got %v, %v", got, err)
	}
	if len(capabilities) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d capabilities have names, the kernel has %d", len(capabilities), unix.CAP_LAST_CAP+1)
	}
	for _, bad := range []string{"Name:\tx\n", "CapPrm:\tmany\n"} {
		if _, err := lacked(bad); err == nil {
			t.Errorf("lacked(%q) is no error", bad)
		}
	}
}
