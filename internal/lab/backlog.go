package lab

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/streams"
)

// backlogs returns the hub's count of the messages that each site has not stored yet. A site
// without a consumer is missing.
func (l *Lab) backlogs(ctx context.Context) (map[string]int, error) {
	if _, running := l.daemons.PID(partHub); !running {
		return nil, errors.New("the hub does not run")
	}
	nc, err := nats.Connect("nats://"+hubClients, nats.UserCredentials(l.hubFile(accounts.AdminCreds)))
	if err != nil {
		return nil, fmt.Errorf("connect to the hub: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.NewWithDomain(nc, streams.HubDomain)
	if err != nil {
		return nil, fmt.Errorf("open JetStream of the hub: %w", err)
	}
	pending := map[string]int{}
	for _, name := range SiteNames {
		c, err := js.Consumer(ctx, streams.Desired, name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return nil, fmt.Errorf("read consumer of %s: %w", name, err)
		default:
			pending[name] = int(c.CachedInfo().NumPending) + c.CachedInfo().NumAckPending
		}
	}
	return pending, nil
}

func backlog(pending map[string]int, site string) string {
	if n, ok := pending[site]; ok {
		return fmt.Sprint(n)
	}
	return "no consumer"
}

// bridgeProbe checks that the bridge has created every site's consumer.
func (l *Lab) bridgeProbe(ctx context.Context) error {
	pending, err := l.backlogs(ctx)
	if err != nil {
		return err
	}
	if len(pending) < len(SiteNames) {
		return fmt.Errorf("%d of %d sites have a consumer", len(pending), len(SiteNames))
	}
	return nil
}
