package leaf

import (
	"testing"

	"github.com/petiole-io/petiole/internal/metrics/metricstest"
)

const leafPrefix = "petiole_leaf_"

// TestMetricsAreDocumented: docs/operations.md has each metric of the leaf with its labels.
// TestLeafSaysHowItIs compares the types.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	documented := metricstest.Documented(t, "../docs/operations.md", leafPrefix)
	metricstest.CompareNames(t, documented, leafPrefix, newCounts().registry, &gauges{}, &deviceGauges{}, &wire{})
}
