package leaf

import (
	"net/http"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams/traffic"
)

// TestTrafficIsReported has a whole leaf at a bridge with a clock of its own, two days later than the
// leaf's: what the link carried is reported under the bridge's day, and adds up to what the line carried,
// also after a restart.
func TestTrafficIsReported(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	b := respond(t, s)
	b.now = time.Now().UTC().AddDate(0, 0, 2).Truncate(24 * time.Hour).Add(time.Hour)
	last := func() (day traffic.Day) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, r := range b.reports {
			if len(r.Days) > 0 {
				day = r.Days[0]
			}
		}
		return day
	}
	w := startWhole(t, ctx, s)
	putDesired(t, ctx, s, "large", noise(100_000))
	polltest.Eventually(t, "the object is at the site, and a report at the bridge", func() bool { return backlog(t, ctx, s) == 0 && last().Bytes() > 0 })
	if day := last(); day.Date != b.now.Format(time.DateOnly) || day.Estimated {
		t.Errorf("reported %+v, want a day of %s", day, b.now)
	}
	before := last().Bytes()
	started(t, w)
	w.stop()
	w = startWhole(t, ctx, s)
	polltest.Eventually(t, "what was carried before the restart", func() bool { return last().Bytes() > before && last().Down[transfer.KindDesired] > 100_000 })
	if got, carried := last().Bytes(), uint64(s.line.Moved(natstest.Upward)+s.line.Moved(natstest.Downward)); got < 100_000 || got > 2*carried {
		t.Errorf("%d bytes are reported, the line has carried %d", got, carried)
	}
	started(t, w)
}

// started waits until a leaf has started: one that is stopped before ends with an error.
func started(t *testing.T, w *whole) {
	t.Helper()
	polltest.Eventually(t, "the leaf has started", func() bool { code, _ := w.get(t, "/readyz"); return code == http.StatusOK })
}
