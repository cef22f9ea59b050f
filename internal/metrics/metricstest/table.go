package metricstest

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Metric is a row of a table: a metric as its readers know it.
type Metric struct {
	// Type is counter, gauge or histogram.
	Type   string
	Labels []string
}

// row matches a row of a table: name, type, labels, meaning.
var row = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (counter|gauge|histogram) \\| ([a-z0-9_`, ]*)\\| \\S.*\\|$")

// Documented returns the metrics in the tables of a document whose names have a prefix.
func Documented(t testing.TB, doc, prefix string) map[string]Metric {
	t.Helper()
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]Metric{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		if strings.HasPrefix(m[1], prefix) {
			all[m[1]] = Metric{Type: m[2], Labels: strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })}
		}
	}
	return all
}

var descriptor = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", .*, constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}\}$`)

// CompareNames reports the differences between the documented metrics and the descriptors of
// collectors whose names have the prefix: names and labels, also of metrics without series yet.
func CompareNames(t testing.TB, documented map[string]Metric, prefix string, collectors ...prometheus.Collector) {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		for _, c := range collectors {
			c.Describe(descs)
		}
	}()
	missing := maps.Clone(documented)
	for d := range descs {
		m := descriptor.FindStringSubmatch(d.String())
		if m == nil {
			t.Errorf("descriptor %s is not understood", d)
			continue
		}
		name, labels := m[1], labelNames(m[2], m[3])
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		want, ok := documented[name]
		if !ok {
			t.Errorf("%s with the labels %q is not documented: %s", name, labels, d)
		} else if !equal(want.Labels, labels) {
			t.Errorf("%s has the labels %q, documented are %q", name, labels, want.Labels)
		}
		delete(missing, name)
	}
	for name := range missing {
		t.Errorf("%s is documented and not registered", name)
	}
}

// CompareTypes reports the families with the prefix whose type is not the documented one.
func CompareTypes(t testing.TB, documented map[string]Metric, prefix string, families []*dto.MetricFamily) {
	t.Helper()
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), prefix) {
			continue
		}
		if is, want := strings.ToLower(f.GetType().String()), documented[f.GetName()].Type; is != want {
			t.Errorf("%s is a %s, documented is %q", f.GetName(), is, want)
		}
	}
}

// Keep writes what a program answered to a scrape into the folder that the variable
// PETIOLE_METRICS names, for a Prometheus that scrapes it there (`go tool task metrics`). Without
// the variable it does nothing.
func Keep(t testing.TB, program, text string) {
	t.Helper()
	folder, wanted := os.LookupEnv("PETIOLE_METRICS")
	if !wanted {
		return
	}
	if err := os.WriteFile(filepath.Join(folder, program+".prom"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// labelNames returns the names of constant labels, name="value", and of variable ones.
func labelNames(constant, variable string) []string {
	var names []string
	for l := range strings.SplitSeq(constant+","+variable, ",") {
		if name, _, _ := strings.Cut(l, "="); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func equal(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
