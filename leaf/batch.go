package leaf

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// The wait for an acknowledgement of a batch: ackWait, and from the hub hubWait and the time
// that what is sent takes on a link of slowestLink bytes per second (64 kbit/s shared with
// other traffic). A link that is dead is found sooner.
const (
	ackWait     = 5 * time.Second
	hubWait     = 15 * time.Second
	slowestLink = 4 << 10
)

// errDuplicate means that some messages of a batch are stored already.
var errDuplicate = errors.New("the batch holds a message that is stored already")

// store publishes messages, in order, to the JetStream of one domain.
type store struct {
	nc     *nats.Conn
	domain string
}

// put stores msgs, of one stream and batchMessages at most, in one commit, and returns when they
// are stored. If some were stored before (their acknowledgement was lost), it publishes them one
// by one and the stream drops duplicates by id.
func (s store) put(ctx context.Context, msgs []*nats.Msg) error {
	if len(msgs) > 1 {
		err := s.commit(ctx, msgs)
		if !errors.Is(err, errDuplicate) {
			return err
		}
	}
	for i, m := range msgs {
		streams.MarkBatch(msgs[i : i+1])
		if _, err := s.request(ctx, m, m.Size()); err != nil {
			return err
		}
	}
	return nil
}

func (s store) commit(ctx context.Context, msgs []*nats.Msg) error {
	streams.MarkBatch(msgs)
	last, size := len(msgs)-1, msgs[len(msgs)-1].Size()
	for _, m := range msgs[:last] {
		size += m.Size()
		if err := s.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("publish %s: %w", m.Subject, err)
		}
	}
	ack, err := s.request(ctx, msgs[last], size)
	if err == nil && ack.Count != len(msgs) {
		return fmt.Errorf("commit a batch of %d messages up to %s: %d were counted", len(msgs), msgs[last].Subject, ack.Count)
	}
	return err
}

// request publishes m and waits for the acknowledgement of the domain's JetStream; size is the
// number of bytes in flight, including m. An acknowledgement from another domain is an error:
// the message would then be stored at the wrong end.
func (s store) request(ctx context.Context, m *nats.Msg, size int) (streams.Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, s.ackTimeout(size))
	defer cancel()
	reply, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return streams.Ack{}, fmt.Errorf("publish %s (id %s): %w", m.Subject, m.Header.Get(jetstream.MsgIDHeader), err)
	}
	ack, err := parseAck(reply.Data, s.domain)
	if err != nil {
		return streams.Ack{}, fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	return ack, nil
}

// ackTimeout returns how long to wait for the acknowledgement of size bytes. Only messages for
// the hub cross a slow link.
func (s store) ackTimeout(size int) time.Duration {
	if s.domain != streams.HubDomain {
		return ackWait
	}
	return hubWait + transferTime(size)
}

// parseAck parses an acknowledgement of the JetStream of domain.
func parseAck(data []byte, domain string) (streams.Ack, error) {
	ack, err := streams.ReadAck(data)
	var no *streams.Refusal
	switch {
	case errors.As(err, &no) && no.Code == streams.CodeBatchDuplicate:
		return streams.Ack{}, errDuplicate
	case err != nil:
		return streams.Ack{}, err
	case ack.Domain != domain:
		return streams.Ack{}, fmt.Errorf("acknowledged by JetStream domain %q, want %q", ack.Domain, domain)
	}
	return ack, nil
}
