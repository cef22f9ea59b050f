package leaf

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

const (
	// batchMessages bounds what one commit carries: one round trip for so many.
	batchMessages = 256
	// idleFetch is how long one request for the next message waits.
	idleFetch = 30 * time.Second
	// forwardAckWait exceeds what a batch may take on a slow link; a session that ends
	// earlier resets the consumer itself.
	forwardAckWait = 5 * time.Minute
)

// forwarder carries one stream of the leaf to the hub: in the stream's order, at
// least once. It acknowledges locally only after the hub's JetStream has answered
// that it stored the message.
type forwarder struct {
	site   string
	stream string
	js     jetstream.JetStream
	hub    store
	link   *link
	log    *zap.Logger
}

// Run forwards until ctx ends. While the link is down it holds nothing in memory, so
// that what changes meanwhile is merged in the stream.
func (f *forwarder) Run(ctx context.Context) error {
	return f.link.sessions(ctx, f.log, f.session)
}

// session forwards until something fails and returns how many messages the hub took.
func (f *forwarder) session(ctx context.Context) (sent int, err error) {
	s, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", f.stream, err)
	}
	cfg := streams.LocalConsumer(streams.ForwardConsumer, "what the hub has stored", 2*batchMessages)
	cfg.AckWait = forwardAckWait
	consumer, err := s.CreateOrUpdateConsumer(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("open consumer %s of %s: %w", streams.ForwardConsumer, f.stream, err)
	}
	// What an earlier session fetched and did not acknowledge comes first again.
	if _, err := s.ResetConsumer(ctx, streams.ForwardConsumer); err != nil {
		return 0, fmt.Errorf("reset consumer %s of %s: %w", streams.ForwardConsumer, f.stream, err)
	}
	ids := fmt.Sprintf("%s.%s.%d", f.site, f.stream, s.CachedInfo().Created.UnixNano())
	for {
		batch, err := f.fetch(ctx, consumer)
		if err != nil {
			return sent, err
		}
		if len(batch) == 0 {
			continue
		}
		if err := f.publish(ctx, ids, batch); err != nil {
			return sent, err
		}
		for _, m := range batch {
			if err := m.Ack(); err != nil {
				return sent, fmt.Errorf("acknowledge %s of %s: %w", m.Subject(), f.stream, err)
			}
		}
		sent += len(batch)
	}
}

// fetch waits for the next message and takes along what is there already.
func (f *forwarder) fetch(ctx context.Context, c jetstream.Consumer) ([]jetstream.Msg, error) {
	idle, cancel := context.WithTimeout(ctx, idleFetch)
	defer cancel()
	first, err := c.Next(jetstream.FetchContext(idle))
	if idle.Err() != nil || errors.Is(err, nats.ErrTimeout) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", f.stream, err)
	}
	batch := []jetstream.Msg{first}
	more, err := c.FetchNoWait(batchMessages - 1)
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", f.stream, err)
	}
	for m := range more.Messages() {
		batch = append(batch, m)
	}
	if err := more.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
		return nil, fmt.Errorf("fetch from %s: %w", f.stream, err)
	}
	return batch, nil
}

// publish stores the messages at the hub, in order, and returns when all are stored.
func (f *forwarder) publish(ctx context.Context, ids string, msgs []jetstream.Msg) error {
	out := make([]*nats.Msg, 0, len(msgs))
	for _, m := range msgs {
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read metadata of %s: %w", m.Subject(), err)
		}
		subject, err := streams.ForwardSubject(f.site, m.Subject())
		if err != nil {
			return err
		}
		msg := nats.NewMsg(subject)
		for k, v := range m.Headers() {
			if !strings.HasPrefix(k, "Nats-") || k == jetstream.MsgTTLHeader { // instructions to the local stream
				msg.Header[k] = v
			}
		}
		// The id is the message's place in this stream, so that what is sent again is
		// stored once. The stream's creation time keeps it apart from a store rebuilt.
		msg.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s.%d", ids, meta.Sequence.Stream))
		msg.Data = m.Data()
		out = append(out, msg)
	}
	return f.hub.put(ctx, out)
}
