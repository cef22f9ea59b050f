package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

const (
	// maxCommit is how many messages nats-server takes in one atomic batch by default.
	maxCommit = 1000
	// commitWait is how long a commit may take: flash memory may stall for seconds.
	commitWait = 5 * time.Second
)

// The headers of an atomic batch (ADR-50): all messages of a batch are stored, in
// order, or none is.
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// refusal is JetStream's answer that it has not stored what it was given.
type refusal struct {
	subject     string
	code        int
	description string
}

// Error says who refused what.
func (r *refusal) Error() string {
	return fmt.Sprintf("store %s: refused: %s (%d)", r.subject, r.description, r.code)
}

// commit stores msgs, of one stream and maxCommit at most, in one commit, and returns
// when they are stored. A *refusal is the stream's own answer; after any other error
// nobody knows what became of them.
func commit(ctx context.Context, nc *nats.Conn, msgs []*nats.Msg) error {
	last := len(msgs) - 1
	if last == 0 {
		for _, h := range []string{headerBatchID, headerBatchSeq, headerBatchCommit} {
			msgs[0].Header.Del(h) // of a batch that was refused
		}
	} else {
		id := nuid.Next()
		for i, m := range msgs {
			m.Header.Set(headerBatchID, id)
			m.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
			if i == last {
				m.Header.Set(headerBatchCommit, "1")
				break
			}
			if err := nc.PublishMsg(m); err != nil {
				return fmt.Errorf("store %s: %w", m.Subject, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, commitWait)
	defer cancel()
	defer cancelWhenLost(nc, cancel)()
	reply, err := nc.RequestMsgWithContext(ctx, msgs[last])
	if errors.Is(err, nats.ErrNoResponders) {
		return &refusal{subject: msgs[last].Subject, description: "no stream takes it"}
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", msgs[last].Subject, err)
	}
	return acknowledged(msgs, reply.Data)
}

// cancelWhenLost calls cancel when the connection is lost, with which the
// acknowledgement is lost too. The returned function ends the watch.
func cancelWhenLost(nc *nats.Conn, cancel context.CancelFunc) func() {
	lost := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	var watch sync.WaitGroup
	watch.Go(func() {
		if _, ok := <-lost; ok {
			cancel()
		}
	})
	return func() { nc.RemoveStatusListener(lost); watch.Wait() }
}

// acknowledged reads the stream's answer to the last of msgs.
func acknowledged(msgs []*nats.Msg, answer []byte) error {
	last := len(msgs) - 1
	var ack struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Stream string `json:"stream"`
		Count  int    `json:"count"`
	}
	if err := json.Unmarshal(answer, &ack); err != nil {
		return fmt.Errorf("read acknowledgement of %s: %w", msgs[last].Subject, err)
	}
	switch {
	case ack.Error != nil:
		return &refusal{subject: msgs[last].Subject, code: ack.Error.Code, description: ack.Error.Description}
	case ack.Stream == "":
		return fmt.Errorf("store %s: the acknowledgement names no stream", msgs[last].Subject)
	case last > 0 && ack.Count != len(msgs):
		return fmt.Errorf("store %d messages up to %s: %d were counted", len(msgs), msgs[last].Subject, ack.Count)
	}
	return nil
}
