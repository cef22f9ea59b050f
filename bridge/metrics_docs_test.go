package bridge

import (
	"net/http"
	"testing"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/metrics/metricstest"
)

const bridgePrefix = metricsNamespace + "_" + metricsSubsystem + "_"

// TestMetricsAreDocumented: docs/operations.md has each metric of the bridge, with its type and
// its labels.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	m := newInstruments(&counters{})
	documented := metricstest.Documented(t, "../docs/operations.md", bridgePrefix)
	metricstest.CompareNames(t, documented, bridgePrefix, m.registry)

	// A series of each, so that the registry gives their types.
	queue := newQueue[string](m, "sites", publishRetry)
	defer queue.ShutDown()
	queue.Add("plant-a")
	m.newOutages(zap.NewNop()).of("watch the API server")(nil)
	m.checks.WithLabelValues("equal")
	m.resyncs.WithLabelValues("requested")
	m.requests.total.WithLabelValues(http.MethodGet, "2xx")
	m.requests.duration.WithLabelValues(http.MethodGet)
	m.sites.CountQuarantined("plant-a", "undecodable")
	m.sites.CountLimited("plant-a", "event_rate")
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.CompareTypes(t, documented, bridgePrefix, families)
}
