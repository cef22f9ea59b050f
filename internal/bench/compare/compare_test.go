package compare

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const latencyTable = `API change → applied at the node: 100 changes of one ConfigMap…

                                                  stock p50 / p99    Petiole p50 / p99  ratio p50  goal          stock, baseline  KubeEdge, baseline
ConfigMap change → applied at the node (n=100)    1.9 ms / 6.2 ms    3.4 ms / 9.0 ms    1.79×      ≤ 1.4× MISSED  -                -
pod create → Running (n=20)                       0.213 s / 0.405 s  0.240 s / 0.430 s  1.13×      ≤ 1.2× met    0.213 / 0.405 s  1.005 s
`

const deliveryTable = `CHANGED WHILE AWAY  FIRST AT THE SITE  ALL AT THE SITE  FROM FIRST TO LAST
200                 1.1s               1.25s            150ms
200                 1.3s               1.4s             100ms
5000                1.2s               3.2s             2s

RECONNECT OF 200 SITES, 10 CHANGED OBJECTS EACH  FIGURE
until every site has stored everything           4.5s
of them by bridges                               0
`

func TestFiguresOfTables(t *testing.T) {
	for table, want := range map[string]map[string]float64{
		latencyTable: {
			"ConfigMap change → applied at the node: Petiole p50 / p99": 0.0034, "ConfigMap change → applied at the node: ratio p50": 1.79,
			"pod create → Running: Petiole p50 / p99": 0.24, "pod create → Running: ratio p50": 1.13,
		},
		deliveryTable: {
			"200: FIRST AT THE SITE": 1.2, "200: ALL AT THE SITE": 1.325, "200: FROM FIRST TO LAST": 0.125,
			"5000: FIRST AT THE SITE": 1.2, "5000: ALL AT THE SITE": 3.2, "5000: FROM FIRST TO LAST": 2,
			"until every site has stored everything: FIGURE": 4.5,
		},
	} {
		f := Figures{}
		f.Read(table)
		got := map[string]float64{}
		for _, name := range f.Names() {
			got[name], _ = f.Median(name)
		}
		if names := slices.Sorted(maps.Keys(want)); !slices.Equal(f.Names(), names) {
			t.Errorf("figures %q, want %q", f.Names(), names)
		}
		for name, v := range want {
			if d := got[name] - v; d > 1e-9 || d < -1e-9 {
				t.Errorf("%s: %v, want %v", name, got[name], v)
			}
		}
	}
}

// TestVersionsTakeTurns runs programs that print tables in place of the benchmarks.
func TestVersionsTakeTurns(t *testing.T) {
	order := filepath.Join(t.TempDir(), "order")
	version := func(name, table string) string {
		root := t.TempDir()
		bin := filepath.Join(root, ".lab", "bin")
		if err := os.MkdirAll(bin, 0o700); err != nil {
			t.Fatal(err)
		}
		for program, text := range map[string]string{
			"lab": "echo " + name + " $1 >> " + order, "bench": "echo " + name + " $1 >> " + order + "; cat <<'END'\n" + table + "END",
		} {
			if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	var out strings.Builder
	o := Options{
		Former: version("before", latencyTable), Root: version("now", strings.ReplaceAll(latencyTable, "1.13×", "1.20×")),
		Benchmark: "latency", Rounds: 2, Bound: 1.05, Out: &out,
	}
	err := Run(context.Background(), o)
	if !errors.Is(err, ErrSlower) || !strings.Contains(err.Error(), "pod create → Running: ratio p50") || strings.Contains(err.Error(), "ConfigMap") {
		t.Errorf("%v, want the ratio of pods alone to be too large\n%s", err, out.String())
	}
	data, err := os.ReadFile(order)
	if err != nil {
		t.Fatal(err)
	}
	const turn = "before up,before latency,before down,"
	now := strings.ReplaceAll(turn, "before", "now")
	if got := strings.ReplaceAll(string(data), "\n", ","); got != turn+now+now+turn {
		t.Errorf("the order is %s", got)
	}
	o.Bound = 1.1
	if err := Run(context.Background(), o); err != nil {
		t.Errorf("within the bound: %v", err)
	}
}

// TestFormerVersionOutsideOfTheLab: the end of each run of this version deletes what is in .lab.
func TestFormerVersionOutsideOfTheLab(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	for _, former := range []string{filepath.Join(root, ".lab", "former"), filepath.Join(".lab", "former")} {
		err := Run(t.Context(), Options{Root: root, Former: former, Benchmark: "latency", Rounds: 1, Out: t.Output()})
		if err == nil || !strings.Contains(err.Error(), "--former "+former) {
			t.Errorf("%s: %v, want it refused", former, err)
		}
	}
}
