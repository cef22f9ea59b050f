package link

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSessionsReturnWithJitter ends a session of many sites at one moment, as an outage
// of the hub's JetStream does: they do not return at one moment.
func TestSessionsReturnWithJitter(t *testing.T) {
	t.Parallel()
	const sites = 20
	begins := make(chan time.Time, 2*sites)
	ctx, end := context.WithTimeout(t.Context(), 10*time.Second)
	l := New(nil, prometheus.NewCounter(prometheus.CounterOpts{Name: "changes"}), zap.NewNop())
	done := make(chan error, sites)
	for range sites {
		fails := 0
		go func() {
			done <- l.Sessions(ctx, zap.NewNop(), func(ctx context.Context) (int, error) {
				begins <- time.Now()
				if fails++; fails > 1 {
					<-ctx.Done()
				}
				return 0, errors.New("the hub's JetStream is gone")
			})
		}()
	}
	defer func() {
		end()
		for range sites {
			<-done
		}
	}()
	for range sites {
		<-begins
	}
	var first, last time.Time
	for range sites {
		select {
		case at := <-begins:
			if first.IsZero() {
				first = at
			}
			last = at
		case <-ctx.Done():
			t.Fatal("a session did not begin again")
		}
	}
	if spread := last.Sub(first); spread < minBackoff/4 {
		t.Errorf("%d sessions began again within %s", sites, spread)
	}
}

// TestSubjectsOfTheHubBecomeKnown has sessions that find no responders. Soon after the link came
// up the next one starts at once, and nothing is logged; later they back off, as after any other
// failure.
func TestSubjectsOfTheHubBecomeKnown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		failure error
		// known is when the hub's subjects are known, after the link came up; a session finds
		// them at least and at most so much later.
		known, least, most time.Duration
		logged             int
	}{
		{nats.ErrNoResponders, 10 * time.Millisecond, 0, propagationDelay * 3 / 2, 0},
		{nats.ErrNoResponders, propagation / 2, 0, propagationDelay * 3 / 2, 0},
		{nats.ErrNoResponders, 10 * propagation, 0, maxBackoff * 3 / 2, 1},
		{errors.New("another failure"), 10 * time.Millisecond, minBackoff/2 - 10*time.Millisecond, minBackoff * 3 / 2, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			l := New(func() uint64 { return 1 }, prometheus.NewCounter(prometheus.CounterOpts{Name: "changes"}), zap.NewNop())
			time.Sleep(time.Hour)
			l.set(1)
			up := time.Now()
			ctx, end := context.WithCancel(t.Context())
			sessions := 0
			err := l.Sessions(ctx, zap.New(core), func(context.Context) (int, error) {
				sessions++
				if time.Since(up) < c.known {
					return 0, fmt.Errorf("reset the hub's consumer: %w", c.failure)
				}
				end()
				return 0, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			late := time.Since(up) - c.known
			if late < c.least || late > c.most || logs.Len() != c.logged {
				t.Errorf("%v until %s: %d sessions, the last one %s later, %d warnings; want %s to %s, %d warnings", c.failure, c.known, sessions, late, logs.Len(), c.least, c.most, c.logged)
			}
			if most := int(propagation/(propagationDelay/2)) + 20; sessions > most {
				t.Errorf("%v until %s: %d sessions, want at most %d", c.failure, c.known, sessions, most)
			}
		})
	}
}
