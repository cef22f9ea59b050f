package backoff

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoff(t *testing.T) { synctest.Test(t, backoff) }

func backoff(t *testing.T) {
	b := Backoff{First: time.Second, Max: 5 * time.Second}
	begin := time.Now()
	for range 2 {
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			if got := b.Next(); got != want*time.Second {
				t.Fatalf("%s, want %ds", got, want)
			}
		}
		b.Reset()
	}
	if !b.Wait(t.Context()) || time.Since(begin) != time.Second {
		t.Fatalf("waited %s", time.Since(begin))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if b.Wait(ctx) || time.Since(begin) != time.Second+time.Millisecond {
		t.Fatalf("waited %s", time.Since(begin))
	}
}
