package forward

import (
	"testing"
	"time"
)

// TestRefusals has reports refused as 10 and 11, once more as 12, and then accepted.
func TestRefusals(t *testing.T) {
	var r refusals
	now := time.Now()
	if r.delay(10, now) != 0 {
		t.Error("a report waits although none was refused")
	}
	if !r.note(10, now) || r.note(11, now) {
		t.Error("not only the first refusal is new")
	}
	r.sent(9)
	if !r.active.Load() {
		t.Error("what was refused was sent already")
	}
	if r.delay(9, now) != 0 || r.delay(10, now) != minRefusedWait {
		t.Errorf("what comes before waits %s, what was refused %s; want 0 and %s", r.delay(9, now), r.delay(10, now), minRefusedWait)
	}
	r.retry(10)
	if r.note(12, now) {
		t.Error("a second refusal is new")
	}
	r.sent(11)
	if d := r.delay(12, now); d != 2*minRefusedWait || !r.active.Load() {
		t.Errorf("after a second refusal it waits %s, want %s", d, 2*minRefusedWait)
	}
	r.retry(12)
	r.sent(12)
	if r.active.Load() || r.delay(13, now) != 0 {
		t.Error("nothing is refused any more, and something waits")
	}
	for seq := uint64(20); seq < 30; seq++ {
		r.note(seq, now)
		r.retry(seq)
	}
	if r.wait != maxRefusedWait {
		t.Errorf("after ten refusals it waits %s, want %s", r.wait, maxRefusedWait)
	}
}
