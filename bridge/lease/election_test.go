package lease

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Another bridge takes over within the configured time: it sees the last renewal up to two
// retry periods late, waits for the lease to expire, and retries.
func TestTimingTakesOverInTime(t *testing.T) {
	t.Parallel()
	for takeover := 3 * time.Second; takeover <= 5*time.Minute; takeover += time.Second {
		d := timingFor(takeover)
		longest := d.lease + 2*d.retry*22/10 // the elector waits up to 2.2 times its period
		if longest > takeover || d.lease < time.Second || d.deadline <= d.retry*12/10 || d.deadline >= d.lease {
			t.Fatalf("for %v: %+v, which takes %v", takeover, d, longest)
		}
		if got := (Config{Takeover: takeover}).Duration(); got != d.lease {
			t.Fatalf("for %v: the lease lasts %v instead of %v", takeover, got, d.lease)
		}
	}
}
