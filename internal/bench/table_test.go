package bench

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var d []time.Duration
	for i := 100; i >= 1; i-- {
		d = append(d, time.Duration(i))
	}
	for _, tc := range []struct {
		d    []time.Duration
		q    float64
		want time.Duration
	}{
		{d, 0.5, 50},
		{d, 0.99, 99},
		{d, 1, 100},
		{d, 0, 1},
		{d[:1], 0.5, 100},
		{[]time.Duration{3, 1, 2}, 0.5, 2},
		{[]time.Duration{4, 3, 2, 1}, 0.99, 4},
	} {
		if got := quantile(tc.d, tc.q); got != tc.want {
			t.Errorf("quantile of %d values at %v is %d, want %d", len(tc.d), tc.q, got, tc.want)
		}
	}
}
