package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// ackWait is the wait for an acknowledgement of the site's own JetStream. That of the hub is
// awaited for HubWait and the time that the batch takes on the slowest link; a link that is dead
// is found sooner.
const ackWait = 5 * time.Second

// Publisher publishes messages, in order, to the JetStream of one domain. Use NewPublisher.
type Publisher struct {
	nc     *nats.Conn
	domain string
}

// NewPublisher returns what publishes on nc to the JetStream of a domain: the site's name, or
// streams.HubDomain.
func NewPublisher(nc *nats.Conn, domain string) Publisher { return Publisher{nc: nc, domain: domain} }

// Put stores msgs, of one stream and BatchMessages at most, in one commit, and returns when they
// are stored. If some were stored before (their acknowledgement was lost), it publishes them one
// by one and the stream drops duplicates by id.
func (p Publisher) Put(ctx context.Context, msgs []*nats.Msg) error {
	if len(msgs) > 1 {
		err := p.commit(ctx, msgs)
		var refused *streams.Refusal
		if !errors.As(err, &refused) || refused.Code != streams.CodeBatchDuplicate {
			return err
		}
	}
	for i := range msgs {
		if err := p.commit(ctx, msgs[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (p Publisher) commit(ctx context.Context, msgs []*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, p.ackTimeout(msgs))
	defer cancel()
	ack, err := streams.Commit(ctx, p.nc, msgs)
	if err != nil {
		return err
	}
	return p.check(ack)
}

// check returns an error if an acknowledgement is from another domain: the messages would then be
// stored at the wrong end.
func (p Publisher) check(ack streams.Ack) error {
	if ack.Domain != p.domain {
		return fmt.Errorf("acknowledged by JetStream domain %q, want %q", ack.Domain, p.domain)
	}
	return nil
}

// ackTimeout returns how long to wait for the acknowledgement of msgs. Only messages for the hub
// cross a slow link.
func (p Publisher) ackTimeout(msgs []*nats.Msg) time.Duration {
	if p.domain != streams.HubDomain {
		return ackWait
	}
	size := 0
	for _, m := range msgs {
		size += m.Size()
	}
	return HubWait + Duration(size)
}
