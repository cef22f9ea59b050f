package reported

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// A starting API server forbids everything for a while: no report is refused because of that,
// and waiting reports do not block others. A report that is forbidden for a long time is
// refused.
func TestForbiddenReportsWait(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	var open atomic.Bool
	w := startWriting(t, func(rw http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		if !open.Load() {
			forbid(rw)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write([]byte(`{"apiVersion":"v1","kind":"Pod"}`))
	})
	w.start()
	w.say("first")
	w.await("tried again and again", func() bool { return tries.Load() > 5 })
	if n := w.waiting("plant-a"); n != 1 {
		t.Errorf("%d reports wait, want one", n)
	}
	w.ahead.Store(int64(maxForbidden - 10*time.Second))
	if n := w.behind("plant-a"); n != 1 {
		t.Errorf("the next bridge would read %d messages, want the one that waits", n)
	}
	before := tries.Load()
	w.await("still tried", func() bool { return tries.Load() > before+5 })
	open.Store(true)
	w.await("written", func() bool { return w.count.Accepted.Load() == 1 })
	w.await("dealt with", func() bool { return w.behind("plant-a") == 0 })
	if n := w.count.Quarantined.Load(); n != 0 {
		t.Fatalf("%d reports are in quarantine", n)
	}

	open.Store(false)
	w.say("second")
	before = tries.Load()
	w.await("tried again", func() bool { return tries.Load() > before+5 })
	if n := w.count.Quarantined.Load(); n != 0 {
		t.Fatalf("refused at once, although the time starts again: %d", n)
	}
	w.ahead.Add(int64(maxForbidden))
	w.await("refused in the end", func() bool { return w.count.Quarantined.Load() == 1 })
}
