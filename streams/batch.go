package streams

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// MaxBatch is how many messages nats-server takes in one atomic batch by default.
const MaxBatch = 1000

// CodeBatchDuplicate is the API error of a batch that holds a message which is stored
// already (JSAtomicPublishContainsDuplicateMessageErr).
const CodeBatchDuplicate = 10201

// The headers of an atomic batch (ADR-50).
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// MarkBatch makes msgs one atomic batch (ADR-50): published in their order, all of them
// are stored, or none is. JetStream answers the last one. A message that is alone becomes
// a plain one. In which batch a message was before does not matter.
func MarkBatch(msgs []*nats.Msg) {
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

// Ack is JetStream's answer that it has stored a message or a batch.
type Ack struct {
	Stream string `json:"stream"`
	Domain string `json:"domain"`
	// Count is how many messages the batch had, zero for a plain message.
	Count int `json:"count"`
}

// Refusal is JetStream's answer that it has not stored what it was given.
type Refusal struct {
	// Code is that of the API error, such as CodeBatchDuplicate.
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

// Error tells what JetStream said.
func (r *Refusal) Error() string { return fmt.Sprintf("refused: %s (%d)", r.Description, r.Code) }

// ReadAck reads the answer to a plain message or to the last one of a batch. An error
// that is no *Refusal leaves open what became of it.
func ReadAck(data []byte) (Ack, error) {
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
