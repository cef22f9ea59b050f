package bridge

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

// positionTimeout bounds the read of one position.
const positionTimeout = 5 * time.Second

// positionReader answers how much of a leaf's stream the hub has stored.
type positionReader struct{ js jetstream.JetStream }

func (p *positionReader) handler() *handler {
	return &handler{
		workers: 4, backlog: 1024, perSite: 8, maxBytes: 4 << 10,
		answer: func(ctx context.Context, site string, data []byte) any {
			id, err := p.answer(ctx, site, data)
			if err != nil {
				return streams.PositionAnswer{Error: err.Error()}
			}
			return streams.PositionAnswer{ID: id}
		},
		refuse: func(reason string) any { return streams.PositionAnswer{Error: reason} },
	}
}

func (p *positionReader) answer(ctx context.Context, site string, data []byte) (string, error) {
	var q streams.PositionQuery
	if err := json.Unmarshal(data, &q); err != nil {
		return "", fmt.Errorf("read query: %w", err)
	}
	switch q.Stream {
	case streams.SiteReported:
		return p.last(ctx, streams.Reported, streams.ReportedFilter(site))
	case streams.SiteTelemetry:
		return p.last(ctx, streams.Telemetry, streams.TelemetryFilter(site))
	}
	return "", fmt.Errorf("stream %q is not forwarded by sites", q.Stream)
}

// last returns the message ID of the newest message that matches.
func (p *positionReader) last(ctx context.Context, stream, filter string) (string, error) {
	m, err := lastMessage(ctx, p.js.Conn(), stream, filter)
	if err != nil || m == nil {
		return "", err
	}
	return m.Header.Get(jetstream.MsgIDHeader), nil
}

// storedMessage is a message of a stream.
type storedMessage struct {
	Subject string
	Seq     uint64
	Header  nats.Header
}

// lastMessage returns the newest message of one of the hub's streams that matches, nil if
// there is none. It asks the stream's leader: with direct get, which the client library uses,
// a replica that lags may answer.
func lastMessage(ctx context.Context, nc *nats.Conn, stream, filter string) (*storedMessage, error) {
	body, err := json.Marshal(map[string]string{"last_by_subj": filter})
	if err != nil {
		return nil, fmt.Errorf("encode query of %s: %w", stream, err)
	}
	ctx, cancel := context.WithTimeout(ctx, positionTimeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, "$JS."+streams.HubDomain+".API.STREAM.MSG.GET."+stream, body)
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
	return &storedMessage{answer.Message.Subject, answer.Message.Seq, header}, nil
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
