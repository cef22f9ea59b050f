package link

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// result is one line of a benchmark's output.
type result struct {
	// name is the benchmark's without "Benchmark" and the number of processors.
	name string
	// metrics maps units to values.
	metrics map[string]float64
}

// processors is what package testing adds to the names of benchmarks.
var processors = regexp.MustCompile(`-\d+$`)

// parse reads the results of benchmarks from the output of go test
// (https://go.dev/design/14313-benchmark-format).
func parse(output string) (all []result, err error) {
	for line := range strings.Lines(output) {
		f := strings.Fields(line)
		if len(f) < 4 || len(f)%2 != 0 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		if _, err := strconv.Atoi(f[1]); err != nil {
			continue // a line of a log
		}
		r := result{name: processors.ReplaceAllString(strings.TrimPrefix(f[0], "Benchmark"), ""), metrics: map[string]float64{}}
		for i := 2; i < len(f); i += 2 {
			if r.metrics[f[i+1]], err = strconv.ParseFloat(f[i], 64); err != nil {
				return nil, fmt.Errorf("read %q of %s: %w", f[i+1], f[0], err)
			}
		}
		all = append(all, r)
	}
	return all, nil
}
