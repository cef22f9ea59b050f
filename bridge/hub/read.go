package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// readTimeout bounds the read of one message.
const readTimeout = 5 * time.Second

// ReadAll calls handle for each message that the stream holds now, from a sequence on, in order.
// With headersOnly the hub does not send the bodies.
func (h *Hub) ReadAll(ctx context.Context, stream jetstream.Stream, from uint64, filter string, headersOnly bool, handle func(jetstream.Msg) error) error {
	name := stream.CachedInfo().Config.Name
	info, err := stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	cons, err := h.JS.CreateConsumer(ctx, name, jetstream.ConsumerConfig{
		Description: "reads a stream into the bridge's cache", FilterSubject: filter, HeadersOnly: headersOnly,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer func() {
		// It would expire by itself, but until then it would be listed among the sites'
		// consumers.
		_ = h.JS.DeleteConsumer(context.WithoutCancel(ctx), name, cons.CachedInfo().Name)
	}()
	left, next := cons.CachedInfo().NumPending, uint64(1)
	for left > 0 {
		batch, err := cons.Fetch(int(min(left, 500)), jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			if meta.Sequence.Consumer != next {
				return fmt.Errorf("read %s: received message %d instead of %d", name, meta.Sequence.Consumer, next)
			}
			left, next = meta.NumPending, next+1
			if meta.Sequence.Stream > info.State.LastSeq {
				left = 0 // later messages are delivered another way
			}
			if err := handle(msg); err != nil {
				return err
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if left == 0 {
			return nil
		}
		// Pending messages may have been replaced meanwhile.
		now, err := cons.Info(ctx)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		left = now.NumPending
	}
	return nil
}

// Message is a message of a stream.
type Message struct {
	Subject string
	Seq     uint64
	Header  nats.Header
}

// LastMessage returns the newest message of one of the hub's streams that matches, nil if
// there is none. It asks the stream's leader: with direct get, which the client library uses,
// a replica that lags may answer.
func (h *Hub) LastMessage(ctx context.Context, stream, filter string) (*Message, error) {
	body, err := json.Marshal(map[string]string{"last_by_subj": filter})
	if err != nil {
		return nil, fmt.Errorf("encode query of %s: %w", stream, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	reply, err := h.Conn.RequestWithContext(ctx, "$JS."+streams.HubDomain+".API.STREAM.MSG.GET."+stream, body)
	if err != nil {
		return nil, fmt.Errorf("read last message of %s: %w", stream, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Header  []byte `json:"hdrs"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("read last message of %s: %w", stream, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, fmt.Errorf("read last message of %s: %w", stream, answer.Error)
	case answer.Message == nil:
		return nil, errors.New("read last message of " + stream + ": the answer contains no message")
	}
	header, err := decodeHeader(answer.Message.Header)
	if err != nil {
		return nil, err
	}
	return &Message{answer.Message.Subject, answer.Message.Seq, header}, nil
}

func decodeHeader(header []byte) (nats.Header, error) {
	if len(header) == 0 {
		return nil, nil
	}
	h, err := nats.DecodeHeadersMsg(header)
	if err != nil {
		return nil, fmt.Errorf("read headers: %w", err)
	}
	return h, nil
}
