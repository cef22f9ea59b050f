package link

import (
	"strings"
	"testing"
)

// TestTables has the output of the benchmarks, with a cell that the stock kubelet did not finish and one that
// it alone has.
func TestTables(t *testing.T) {
	results, err := parse(`goos: linux
Benchmark logs something else
BenchmarkLine/9.6-kbit/600ms/loss-10%-2 	       1	52000000000 ns/op	        62.50 s	        80.00 %line	        90.00 %line-of-tcp	 88.0 %tcp	 1.20 urgent-s	 0 drops
BenchmarkKubeletLine/9.6-kbit/600ms/loss-10%-2 	       1	300000000000 ns/op	        7 missing
BenchmarkKubeletLine/64.0-kbit/0s/loss-0%-2 	       1	300000000000 ns/op	 44.00 s	 91.00 %line	 39.1 urgent-s	 0 missing
BenchmarkIdle/metered-2 	 1	1000 ns/op	 1.04 wire-MB/day	 0.25 heartbeats-MB/day
PASS
`)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printTables(&out, results); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"| 9.6 | 600ms | 10% | 62 s | 80 % | 90 % | 88 % | 1.2 s | 0 | 7 of 40 missing after 5 min | – | – |",
		"| 64.0 | 0s | 0% | – | – | – | – | – | – | 44 s | 91 % | 39.1 s |",
		"| idle, MB a day | wire | heartbeats |", "| metered | 1.04 | 0.25 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables have no %q:\n%s", want, out.String())
		}
	}
}

func TestParseRefusesWhatIsNoNumber(t *testing.T) {
	if _, err := parse("BenchmarkLine/x-2 1 many s"); err == nil {
		t.Error("a figure that is no number is accepted")
	}
}
