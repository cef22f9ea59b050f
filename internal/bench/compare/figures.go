package compare

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Figures are the samples of each figure of a benchmark, by the row and the column of its table:
// times in seconds, and ratios.
type Figures map[string][]float64

var (
	columns = regexp.MustCompile(` {2,}`)
	samples = regexp.MustCompile(` \(n=\d+\)$`)
)

// Read adds the figures of a benchmark's output.
func (f Figures) Read(out string) {
	var header []string
	for line := range strings.Lines(out) {
		fields := columns.Split(strings.TrimSpace(line), -1)
		if len(fields) < 2 {
			continue
		}
		any := false
		for i, field := range fields[1:] {
			value, ok := figure(field)
			if !ok {
				continue
			}
			any = true
			title := ""
			if at := len(header) - len(fields) + 1 + i; at >= 0 && at < len(header) {
				title = header[at]
			}
			if strings.Contains(title, "stock") || strings.Contains(title, "baseline") {
				continue // is the same in both versions, or a constant
			}
			name := samples.ReplaceAllString(fields[0], "") + ": " + title
			f[name] = append(f[name], value)
		}
		if !any {
			header = fields
		}
	}
}

// figure returns the value of a time such as "1.2 ms / 3 ms" or "1.5s", of which the first counts, or
// of a ratio such as "1.12×".
func figure(s string) (float64, bool) {
	if ratio, ok := strings.CutSuffix(s, "×"); ok {
		v, err := strconv.ParseFloat(ratio, 64)
		return v, err == nil
	}
	first, _, _ := strings.Cut(s, " / ")
	d, err := time.ParseDuration(strings.ReplaceAll(first, " ", ""))
	return d.Seconds(), err == nil && first != "0"
}

// Names returns the names of the figures, sorted.
func (f Figures) Names() []string { return slices.Sorted(maps.Keys(f)) }

// Median returns the median of a figure. It returns false if there is none of that name.
func (f Figures) Median(name string) (float64, bool) {
	all := slices.Sorted(slices.Values(f[name]))
	if len(all) == 0 {
		return 0, false
	}
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2, true
}
