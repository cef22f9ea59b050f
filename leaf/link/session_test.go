package link

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
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
