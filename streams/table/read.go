package table

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// readBytes is the size of the messages above which a read ends.
const readBytes = 1 << 20

// Message is a message of a stream, as it was published.
type Message struct {
	Subject string
	Seq     uint64
	Header  nats.Header
	Data    []byte
	Time    time.Time
}

// Read returns up to n messages of a site's stream from a sequence on, in order: fewer if they are
// large, none if there are no more. It returns jetstream.ErrStreamNotFound if there is no stream.
func (t *Table) Read(ctx context.Context, site string, from uint64, n int) ([]Message, error) {
	tail := t.Tail(site).Last
	msgs, err := t.read(ctx, site, from, n)
	if err != nil || len(msgs) >= n || len(msgs) > 0 && msgs[len(msgs)-1].Seq >= tail || from > tail {
		return msgs, err
	}
	// A replica may have answered that does not have the newest messages yet.
	if len(msgs) > 0 {
		from = msgs[len(msgs)-1].Seq + 1
	}
	next, err := nextOfLeader(ctx, t.cfg, t.cfg.Name(site), from)
	if err != nil || next == nil {
		return msgs, err
	}
	return append(msgs, *next), nil
}

// read reads messages by direct get, in one request.
func (t *Table) read(ctx context.Context, site string, from uint64, n int) ([]Message, error) {
	stream := t.cfg.Name(site)
	query, err := json.Marshal(map[string]any{"seq": max(from, 1), "batch": n, "max_bytes": readBytes})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	inbox := nats.NewInbox()
	replies := make(chan *nats.Msg, n+1)
	sub, err := t.cfg.Conn.ChanSubscribe(inbox, replies)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection has been closed
	if err := t.cfg.Conn.PublishRequest(api(t.cfg, "DIRECT.GET."+stream), inbox, query); err != nil {
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var msgs []Message
	for {
		var reply *nats.Msg
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read %s: %w", stream, ctx.Err())
		case reply = <-replies:
		}
		m, err := decode(reply)
		if errors.Is(err, errEnd) {
			return msgs, nil
		}
		if err == nil {
			if of, wrong := t.cfg.Site(m.Subject); wrong != nil || of != site {
				err = fmt.Errorf("message %d has the subject %q", m.Seq, m.Subject)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", stream, err)
		}
		msgs = append(msgs, m)
	}
}

// added are the headers that the server adds to an answer of direct get.
var added = []string{
	jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer, "Nats-Num-Pending", jetstream.LastSequenceHeader,
}

// decode decodes an answer of direct get. It returns errEnd for the one that ends a batch. A status
// counts only without a sequence, which the server adds to all messages: their publisher may have
// set one.
func decode(reply *nats.Msg) (Message, error) {
	if status := reply.Header.Get("Status"); len(reply.Data) == 0 && status != "" && own(reply.Header, jetstream.SequenceHeader) == "" {
		switch status {
		case "204", "404":
			return Message{}, errEnd
		case "503":
			return Message{}, jetstream.ErrStreamNotFound
		}
		return Message{}, fmt.Errorf("the hub answers %s %s", status, reply.Header.Get("Description"))
	}
	m := Message{Subject: own(reply.Header, jetstream.SubjectHeader), Header: reply.Header, Data: reply.Data}
	var err error
	if m.Seq, err = strconv.ParseUint(own(reply.Header, jetstream.SequenceHeader), 10, 64); err != nil {
		return Message{}, fmt.Errorf("read the sequence: %w", err)
	}
	if m.Time, err = time.Parse(time.RFC3339Nano, own(reply.Header, jetstream.TimeStampHeaer)); err != nil {
		return Message{}, fmt.Errorf("read the time of message %d: %w", m.Seq, err)
	}
	for _, key := range added {
		if v := m.Header[key]; len(v) > 1 {
			m.Header[key] = v[:len(v)-1]
		} else {
			delete(m.Header, key)
		}
	}
	return m, nil
}

// LastMessage returns the newest message of a stream that matches, nil if there is none. It asks
// the stream's leader: with direct get a replica that lags may answer.
func LastMessage(ctx context.Context, nc *nats.Conn, domain, stream, filter string) (*Message, error) {
	return ofLeader(ctx, Config{Conn: nc, Domain: domain}, stream, map[string]any{"last_by_subj": filter})
}

// nextOfLeader returns the first message of a stream from a sequence on, nil if there is none.
func nextOfLeader(ctx context.Context, cfg Config, stream string, from uint64) (*Message, error) {
	return ofLeader(ctx, cfg, stream, map[string]any{"seq": from, "next_by_subj": ">"})
}

// ofLeader asks the leader of a stream for a message.
func ofLeader(ctx context.Context, cfg Config, stream string, query map[string]any) (*Message, error) {
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := request(ctx, cfg, "STREAM.MSG.GET."+stream, query, &answer); err != nil {
		return nil, fmt.Errorf("read message of %s: %w", stream, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, fmt.Errorf("read message of %s: %w", stream, answer.Error)
	case answer.Message == nil:
		return nil, fmt.Errorf("read message of %s: the answer contains no message", stream)
	}
	m := &Message{Subject: answer.Message.Subject, Seq: answer.Message.Seq, Data: answer.Message.Data, Time: answer.Message.Time}
	if len(answer.Message.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(answer.Message.Header)
		if err != nil {
			return nil, fmt.Errorf("read headers of message %d of %s: %w", m.Seq, stream, err)
		}
		m.Header = h
	}
	return m, nil
}
