package breaker

import (
	"testing"

	"github.com/petiole-io/petiole/internal/breaker/check"
)

func TestAHistoryWithoutEvidenceIsNotJudged(t *testing.T) {
	counts := map[check.Kind]int{}
	for _, k := range evidence {
		counts[k] = 1
	}
	if err := checkEvidence(counts); err != nil {
		t.Error(err)
	}
	for _, k := range evidence {
		counts[k] = 0
		if checkEvidence(counts) == nil {
			t.Errorf("a history without %s is judged", k)
		}
		counts[k] = 1
	}
}
