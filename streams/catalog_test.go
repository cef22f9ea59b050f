package streams

import "testing"

// TestNothingAtASiteAges: nats-server removes by the wall clock what is older than MaxAge. When a
// gateway's clock is set ahead from 1970 that would be everything that was acknowledged.
func TestNothingAtASiteAges(t *testing.T) {
	for _, s := range LeafStreams("plant-a", LeafLimits{}) {
		if s.MaxAge != 0 {
			t.Errorf("%s removes what is older than %s by its clock", s.Name, s.MaxAge)
		}
	}
}
