package store

import "testing"

// TestBound decides what telemetry may have.
func TestBound(t *testing.T) {
	const mb = 1 << 20
	d := disk{reserve: 64 * mb}
	for _, c := range []struct {
		name                        string
		free, total                 int64
		used, now, configured, want int64
	}{
		{"plenty", 900 * mb, 1000 * mb, 10 * mb, 256 * mb, 256 * mb, 256 * mb},
		{"the disk is smaller than configured", 190 * mb, 400 * mb, 10 * mb, 256 * mb, 256 * mb, 136 * mb},
		{"the reserve is taken", 40 * mb, 400 * mb, 100 * mb, 136 * mb, 256 * mb, 76 * mb},
		{"nothing is left", 0, 400 * mb, 20 * mb, 136 * mb, 256 * mb, 1 * mb},
		{"a small disk", 30 * mb, 40 * mb, 0, 256 * mb, 256 * mb, 20 * mb},
		{"some room again", 70 * mb, 400 * mb, 76 * mb, 76 * mb, 256 * mb, 76 * mb},
		{"more room again", 100 * mb, 400 * mb, 76 * mb, 76 * mb, 256 * mb, 112 * mb},
		{"all of it again", 300 * mb, 400 * mb, 76 * mb, 76 * mb, 256 * mb, 256 * mb},
		{"configured is less than the least", 0, 400 * mb, 20 * mb, mb / 2, mb / 2, mb / 2},
	} {
		if got := d.bound(space{c.free, c.total}, c.used, c.now, c.configured); got != c.want {
			t.Errorf("%s: %d MB, want %d", c.name, got/mb, c.want/mb)
		}
	}
}
