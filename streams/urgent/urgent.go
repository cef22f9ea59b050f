// Package urgent lets small messages of DESIRED overtake large ones on the way to a site: which
// of them do so (the bridge), and the request for them (the leaf).
//
// A site's consumer delivers in the order of the stream. On a slow line a pod's deletion behind a
// megabyte of ConfigMaps would take minutes. A site with a backlog therefore asks the bridge for
// what is urgent in it. It is a copy: the message is still delivered in its turn, and only then
// acknowledged, so that nothing relies on this package for delivery. It does no I/O.
package urgent

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// Request is the verb of the request (streams.RequestSubject): a Query, answered by an Answer.
const Request = "urgent"

const (
	// MaxBytes bounds the messages of one answer; a single message may be larger.
	MaxBytes = streams.PartBytes
	// minAhead is how many messages that are not urgent must be ahead of one that overtakes.
	// Copies of what would arrive soon only cost bytes. partsAhead is what an object in parts
	// counts for.
	minAhead, partsAhead = 4, 4
)

// Query asks for what is urgent in the backlog of a site.
type Query struct {
	// Position is the sequence of DESIRED up to which the site has everything.
	Position uint64 `json:"position"`
	// After is the sequence of the last message of an earlier answer.
	After uint64 `json:"after,omitempty"`
	// Bytes bounds the answer, MaxBytes at most.
	Bytes int `json:"bytes"`
}

// Answer holds copies of messages of DESIRED, oldest first.
type Answer struct {
	Messages []Message `json:"messages,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// Message is a copy of a message of DESIRED.
type Message struct {
	// Seq is its sequence.
	Seq     uint64            `json:"seq"`
	Subject string            `json:"subject"`
	Header  map[string]string `json:"header"`
	// Object is the body, absent in a tombstone.
	Object json.RawMessage `json:"object,omitempty"`
}

// Copy returns the copy of a stored message, with the headers of Petiole alone.
func Copy(seq uint64, subject string, h nats.Header, data []byte) Message {
	m := Message{Seq: seq, Subject: subject, Header: map[string]string{}, Object: data}
	for _, k := range []string{
		streams.HeaderOp, streams.HeaderUID, streams.HeaderVersion, streams.HeaderEpoch, streams.HeaderHash, streams.HeaderTerm, streams.HeaderTrace, streams.HeaderParts,
	} {
		if v := h.Get(k); v != "" {
			m.Header[k] = v
		}
	}
	return m
}

// Msg returns the message as it is stored at a site. It returns an error unless it is a complete
// message for that site.
func (m Message) Msg(site string) (*nats.Msg, error) {
	msg := nats.NewMsg(m.Subject)
	for k, v := range m.Header {
		msg.Header.Set(k, v)
	}
	of, _, err := streams.Decode(m.Subject, msg.Header, m.Object)
	switch {
	case err != nil:
		return nil, err
	case of != site || m.Seq == 0 || msg.Header.Get(streams.HeaderParts) != "":
		return nil, fmt.Errorf("urgent message %d on %s is not one of site %s", m.Seq, m.Subject, site)
	}
	msg.Data = m.Object
	return msg, nil
}

// DecodeAnswer decodes an answer.
func DecodeAnswer(data []byte) (Answer, error) {
	var a Answer
	if err := json.Unmarshal(data, &a); err != nil {
		return Answer{}, fmt.Errorf("decode urgent messages: %w", err)
	}
	if a.Error != "" {
		return Answer{}, fmt.Errorf("the bridge has no urgent messages: %s", a.Error)
	}
	return a, nil
}

// Entry describes a message of DESIRED.
type Entry struct {
	Subject string
	Delete  bool
	// Parts is true if the object may have parts.
	Parts bool
	Seq   uint64
}

// urgent reports whether a message may overtake others: a deletion, a pod, or a device with its
// desired values.
func (e Entry) urgent() bool {
	if e.Delete {
		return true
	}
	_, ref, err := streams.ParseDesired(e.Subject)
	if err != nil {
		return false
	}
	return ref.Group == "" && ref.Resource == "pods" || ref.Group == "devices.kubeedge.io" && ref.Resource == "devices"
}

// Collect answers a query from the entries of a site, which it sorts. read returns the message of
// an entry, or one without a sequence if it is no longer there. An object in parts does not
// overtake: it is not small.
func Collect(all []Entry, q Query, read func(Entry) (Message, error)) (Answer, error) {
	var a Answer
	left := min(q.Bytes, MaxBytes)
	for _, e := range choose(all, q) {
		m, err := read(e)
		if err != nil {
			return Answer{}, err
		}
		if m.Seq == 0 || m.Header[streams.HeaderParts] != "" {
			continue
		}
		if left -= m.size(); left < 0 && len(a.Messages) > 0 {
			break
		}
		a.Messages = append(a.Messages, m)
	}
	return a, nil
}

// size returns the approximate size of a message in an answer.
func (m Message) size() int {
	n := len(m.Subject) + len(m.Object) + 50
	for k, v := range m.Header {
		n += len(k) + len(v) + 6
	}
	return n
}

// choose returns the entries that answer a query, oldest first. It sorts all.
func choose(all []Entry, q Query) []Entry {
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	var out []Entry
	ahead := 0
	for _, e := range all {
		switch {
		case e.Seq <= q.Position:
		case !e.urgent():
			if ahead++; e.Parts {
				ahead += partsAhead - 1
			}
		case ahead >= minAhead && e.Seq > q.After:
			out = append(out, e)
		}
	}
	return out
}
