package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// MaxBatch is the number of messages that nats-server accepts in one atomic batch by
// default.
const MaxBatch = 1000

// CodeBatchDuplicate is the code of the API error for a batch with a message that is stored
// already (JSAtomicPublishContainsDuplicateMessageErr).
const CodeBatchDuplicate = 10201

// The headers of an atomic batch (ADR-50).
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// markBatch sets the headers that make msgs one atomic batch (ADR-50): if they are published
// in this order, JetStream stores all of them or none, and answers the last one. A single
// message becomes a plain one. Headers of an earlier batch are replaced.
func markBatch(msgs []*nats.Msg) {
	if len(msgs) == 1 {
		for _, h := range []string{headerBatchID, headerBatchSeq, headerBatchCommit} {
			msgs[0].Header.Del(h)
		}
		return
	}
	id := nuid.Next()
	for i, m := range msgs {
		m.Header.Set(headerBatchID, id)
		m.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
		m.Header.Del(headerBatchCommit)
		if i == len(msgs)-1 {
			m.Header.Set(headerBatchCommit, "1")
		}
	}
}

// publishBeginning marks msgs as one atomic batch and publishes all but the last, which commits it.
func publishBeginning(nc *nats.Conn, msgs []*nats.Msg) error {
	markBatch(msgs)
	for _, m := range msgs[:len(msgs)-1] {
		if err := nc.PublishMsg(m); err != nil {
			return fmt.Errorf("publish %s: %w", describe(m), err)
		}
	}
	return nil
}

// Commit stores msgs, at most MaxBatch for one stream, as one atomic batch, and returns when they
// are stored. It returns a *Refusal if JetStream rejects them. After any other error, such as no
// answer before ctx ends, they may be stored or not.
func Commit(ctx context.Context, nc *nats.Conn, msgs []*nats.Msg) (Ack, error) {
	if err := publishBeginning(nc, msgs); err != nil {
		return Ack{}, err
	}
	last := msgs[len(msgs)-1]
	reply, err := nc.RequestMsgWithContext(ctx, last)
	var ack Ack
	if err == nil {
		ack, err = readAck(reply.Data)
	}
	switch {
	case err != nil:
		return Ack{}, fmt.Errorf("store %s: %w", describe(last), err)
	case len(msgs) > 1 && ack.Count != len(msgs):
		return Ack{}, fmt.Errorf("store %d messages up to %s: the acknowledgement counts %d", len(msgs), describe(last), ack.Count)
	}
	return ack, nil
}

// describe returns the subject of a message, and its id if it has one.
func describe(m *nats.Msg) string {
	if id := m.Header.Get(jetstream.MsgIDHeader); id != "" {
		return m.Subject + " (id " + id + ")"
	}
	return m.Subject
}

// Ack is JetStream's acknowledgement that it has stored a message or a batch.
type Ack struct {
	Stream string `json:"stream"`
	Domain string `json:"domain"`
	// Count is the number of messages in the batch, zero for a plain message.
	Count int `json:"count"`
}

// Refusal is JetStream's answer that it has not stored a message or a batch.
type Refusal struct {
	// Code is the err_code of the API error, such as CodeBatchDuplicate.
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

// Error returns JetStream's description and code.
func (r *Refusal) Error() string { return fmt.Sprintf("refused: %s (%d)", r.Description, r.Code) }

// codeStoreFailed is the code of the API error for a message that the stream could not store
// (JSStreamStoreFailedF), because of a limit or for another reason.
const codeStoreFailed = 10077

// IsFull reports whether an error is JetStream's answer that a message, or a batch, exceeds the
// limit of messages or bytes of its stream.
func IsFull(err error) bool {
	var refused *Refusal
	var api *jetstream.APIError
	if errors.As(err, &api) {
		refused = &Refusal{Code: int(api.ErrorCode), Description: api.Description}
	} else if !errors.As(err, &refused) {
		return false
	}
	return refused.Code == codeStoreFailed && (refused.Description == "maximum messages exceeded" || refused.Description == "maximum bytes exceeded")
}

// readAck decodes the answer to a plain message or to the last one of a batch. After an
// error other than *Refusal the message or batch may be stored or not.
func readAck(data []byte) (Ack, error) {
	var a struct {
		Ack
		Error *Refusal `json:"error"`
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return Ack{}, fmt.Errorf("read the acknowledgement: %w", err)
	}
	switch {
	case a.Error != nil:
		return Ack{}, a.Error
	case a.Stream == "":
		return Ack{}, errors.New("the acknowledgement names no stream")
	}
	return a.Ack, nil
}
