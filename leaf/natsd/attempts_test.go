package natsd

import "testing"

// TestAttemptsLogged logs the 1st, 2nd, 4th, 8th failed attempt, and everything else.
func TestAttemptsLogged(t *testing.T) {
	var a attempts
	logged := 0
	for n := 1; n <= 1000; n++ {
		if a.observe(attemptFailed+" %q (attempt %v): %v", []any{"hub:7422", n, "refused"}) {
			logged++
		}
	}
	if logged != 10 || !a.seen.Swap(false) {
		t.Errorf("%d of 1,000 failed attempts are logged, want 10", logged)
	}
	if !a.observe("Server is ready", nil) || a.seen.Load() {
		t.Error("a line that is no attempt is one")
	}
}
