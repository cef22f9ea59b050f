package forward

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestMissing divides what is missing at the place where the stream begins.
func TestMissing(t *testing.T) {
	none := journal.Range{}
	span := func(from, to uint64) journal.Range { return journal.Range{From: from, To: to} }
	for _, c := range []struct {
		next, before, first uint64
		limit, lost         journal.Range
	}{
		{5, 9, 10, span(5, 9), none},
		{5, 9, 30, span(5, 9), none},
		{5, 9, 1, none, span(5, 9)},
		{5, 9, 7, span(5, 6), span(7, 9)},
		{5, 5, 5, none, span(5, 5)},
		{5, 9, 0, none, span(5, 9)},
	} {
		got := missing(c.next, c.before, c.first)
		if got[streams.GapLimit] != c.limit || got[streams.GapLost] != c.lost {
			t.Errorf("missing(%d, %d, %d) = %v", c.next, c.before, c.first, got)
		}
	}
}

// FuzzPosition decodes any answer of the bridge about the position of the hub.
func FuzzPosition(f *testing.F) {
	f.Add([]byte(`{"id":"plant-a.SITE_TELEMETRY.17.4"}`))
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := parsePosition(data); err == nil && a.ID != "" {
			_, _ = streams.ParseForwardID(a.ID)
		}
	})
}
