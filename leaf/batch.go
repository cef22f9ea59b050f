package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// The headers of an atomic batch (ADR-50): all messages of a batch are stored in
// order or none is.
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// errCodeBatchDuplicate is the API error of a batch that holds a message which is
// stored already (JSAtomicPublishContainsDuplicateMessageErr).
const errCodeBatchDuplicate = 10201

// The wait for an acknowledgement of a batch: ackWait, and the time that what is sent
// takes on a link of slowestLink bytes per second (64 kbit/s shared with other traffic).
const (
	ackWait     = 5 * time.Second
	slowestLink = 4 << 10
)

// pubAck is JetStream's answer to a publish.
type pubAck struct {
	Error *struct {
		Code        int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
	Stream    string `json:"stream"`
	Seq       uint64 `json:"seq"`
	Domain    string `json:"domain"`
	Duplicate bool   `json:"duplicate"`
	Count     int    `json:"count"`
}

// errDuplicate says that some of a batch is stored already.
var errDuplicate = errors.New("the batch holds a message that is stored already")

// store is the JetStream of one domain, where messages are put in order.
type store struct {
	nc     *nats.Conn
	domain string
}

// put stores msgs, of one stream and batchMessages at most, in one commit, and returns
// when they are stored. When some were stored before (their acknowledgement was lost),
// it sends them one by one and the stream drops those whose id it has.
func (s store) put(ctx context.Context, msgs []*nats.Msg) error {
	if len(msgs) > 1 {
		err := s.commit(ctx, msgs)
		if !errors.Is(err, errDuplicate) {
			return err
		}
	}
	for _, m := range msgs {
		for _, h := range []string{headerBatchID, headerBatchSeq, headerBatchCommit} {
			m.Header.Del(h)
		}
		if _, err := s.request(ctx, m, m.Size()); err != nil {
			return err
		}
	}
	return nil
}

func (s store) commit(ctx context.Context, msgs []*nats.Msg) error {
	id := nuid.Next()
	last, size := len(msgs)-1, 0
	for i, m := range msgs {
		size += m.Size()
		m.Header.Set(headerBatchID, id)
		m.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
		if i == last {
			m.Header.Set(headerBatchCommit, "1")
			break
		}
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

// request publishes m and waits for the acknowledgement of the domain's JetStream; size
// is how many bytes are on the way, m's included. An acknowledgement from another
// domain is an error: the message would then be stored at the wrong end.
func (s store) request(ctx context.Context, m *nats.Msg, size int) (pubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, ackWait+transfer(size))
	defer cancel()
	reply, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return pubAck{}, fmt.Errorf("publish %s (id %s): %w", m.Subject, m.Header.Get(jetstream.MsgIDHeader), err)
	}
	ack, err := parseAck(reply.Data, s.domain)
	if err != nil {
		return pubAck{}, fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	return ack, nil
}

// parseAck reads an acknowledgement of the JetStream of domain.
func parseAck(data []byte, domain string) (pubAck, error) {
	var ack pubAck
	if err := json.Unmarshal(data, &ack); err != nil {
		return pubAck{}, fmt.Errorf("read the acknowledgement: %w", err)
	}
	switch {
	case ack.Error != nil && ack.Error.Code == errCodeBatchDuplicate:
		return pubAck{}, errDuplicate
	case ack.Error != nil:
		return pubAck{}, fmt.Errorf("refused: %s (%d)", ack.Error.Description, ack.Error.Code)
	case ack.Stream == "":
		return pubAck{}, errors.New("the acknowledgement names no stream")
	case ack.Domain != domain:
		return pubAck{}, fmt.Errorf("acknowledged by JetStream domain %q, want %q", ack.Domain, domain)
	}
	return ack, nil
}
