package streams

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams/order"
)

// The headers of an object message. They repeat what a consumer needs to know before it
// decodes the body, or without decoding it.
const (
	HeaderOp      = "Petiole-Op"
	HeaderUID     = "Petiole-Uid"
	HeaderVersion = "Petiole-Version"
	HeaderEpoch   = "Petiole-Epoch"
	HeaderHash    = "Petiole-Hash"
	HeaderParts   = "Petiole-Parts"
	// HeaderTerm is the term of the bridge that published a message of DESIRED: the number
	// of leader transitions when it acquired the lease. A bridge that sees a higher term
	// than its own is no longer the leader.
	HeaderTerm = "Petiole-Term"
	// HeaderControl carries the bridge's instruction to a leaf on a SyncSubject:
	// ControlVerify, ControlPresence, ControlTraffic or ControlRequest.
	HeaderControl = "Petiole-Control"
	// HeaderTrace carries a W3C traceparent.
	HeaderTrace = "traceparent"

	// HeaderClock is the state of the mark in a record whose times are not by a clock that is
	// right: unset, unverified, wrong, corrected.
	HeaderClock = "Petiole-Clock"
)

const (
	// ControlVerify tells a leaf to compare its inventory now (package inventory).
	ControlVerify = "verify"
	// ControlPresence tells a leaf to send a heartbeat now: a bridge that begins to lead knows
	// neither its nodes nor when the next one comes.
	ControlPresence = "presence"
	// ControlTraffic tells a leaf to report now what its link carried: the answer has its budget.
	ControlTraffic = "traffic"
	// ControlRequest tells a leaf that deliveries wait for it and that the hub has no request for
	// them: it may believe that it has made one.
	ControlRequest = "request"
)

// Control returns an instruction to the leaf of a site, one of the words above. It is not stored: a
// site that is not connected does not get it.
func Control(site, word string) *nats.Msg {
	m := nats.NewMsg(SyncSubject(site))
	m.Header.Set(HeaderControl, word)
	return m
}

// Op is what a message does to its object.
type Op string

const (
	// OpPut replaces the object, or creates it. In a report it sets the status of an
	// existing object.
	OpPut Op = "put"
	// OpCreate asks the bridge to create an object that was created at the site.
	OpCreate Op = "create"
	// OpDelete removes the object: a tombstone, with an empty body. Deletes are
	// messages because purges do not cross the link.
	OpDelete Op = "delete"
)

// ErrUndecodable reports a message that no retry can make readable. A consumer stores it
// in the quarantine stream, counts it and goes on.
var ErrUndecodable = errors.New("undecodable message")

// Message is one object on its way between cloud and site.
type Message struct {
	Ref
	Op Op
	// UID is the object's metadata.uid. It distinguishes an object from an earlier one of
	// the same name.
	UID string
	// Version is the resourceVersion at the source. Versions are comparable within one
	// Epoch only.
	Version string
	// Epoch identifies the storage that assigned Version: it changes when the API server's
	// storage is restored or replaced.
	Epoch string
	// Hash is a digest of the content, by which the publisher tells a change from a
	// repetition.
	Hash string
	// Term is the value of HeaderTerm, 0 if it is absent.
	Term uint64
	// Trace is a W3C traceparent, or empty.
	Trace string
	// Object is the object in JSON, nil with OpDelete.
	Object json.RawMessage
}

// Stamp returns the version of the object.
func (m Message) Stamp() order.Stamp { return order.Stamp{Epoch: m.Epoch, Version: m.Version} }

// StampOf returns the version of the object in a message with the headers h.
func StampOf(h nats.Header) order.Stamp {
	return order.Stamp{Epoch: h.Get(HeaderEpoch), Version: h.Get(HeaderVersion)}
}

// Encode returns m as a NATS message on subject.
func (m Message) Encode(subject string) *nats.Msg {
	msg := nats.NewMsg(subject)
	for k, v := range map[string]string{
		HeaderOp: string(m.Op), HeaderUID: m.UID, HeaderVersion: m.Version,
		HeaderEpoch: m.Epoch, HeaderHash: m.Hash, HeaderTrace: m.Trace,
	} {
		if v != "" {
			msg.Header.Set(k, v)
		}
	}
	if m.Term > 0 {
		msg.Header.Set(HeaderTerm, strconv.FormatUint(m.Term, 10))
	}
	msg.Data = m.Object
	return msg
}

// Decode decodes a message of DESIRED, SITE_DESIRED, REPORTED or SITE_REPORTED. site is
// empty for the local subjects of a leaf. It checks that the object is JSON with the name
// in the subject and the uid in the header; every error is ErrUndecodable. A message with
// parts has no Object yet: see Load.
func Decode(subject string, header nats.Header, data []byte) (site string, m Message, err error) {
	switch {
	case strings.HasPrefix(subject, desiredPrefix+"."):
		site, m.Ref, err = ParseDesired(subject)
	case strings.HasPrefix(subject, reportedPrefix+"."):
		site, m.Ref, err = ParseReported(subject)
	default:
		m.Ref, err = ParseLocalReported(subject)
	}
	if err != nil {
		return "", Message{}, fmt.Errorf("%w: %w", ErrUndecodable, err)
	}
	m.Op, m.UID, m.Version = Op(header.Get(HeaderOp)), header.Get(HeaderUID), header.Get(HeaderVersion)
	m.Term = TermOf(header)
	m.Epoch, m.Hash, m.Trace = header.Get(HeaderEpoch), header.Get(HeaderHash), header.Get(HeaderTrace)
	switch m.Op {
	case OpDelete:
		return site, m, nil
	case OpPut, OpCreate:
	default:
		return site, m, fmt.Errorf("%w: %s: header %s is %q", ErrUndecodable, m.Ref, HeaderOp, m.Op)
	}
	if header.Get(HeaderParts) != "" {
		return site, m, nil
	}
	m.Object = data
	return site, m, m.checkObject()
}

// TermOf returns the value of HeaderTerm, 0 if it is absent or not a number.
func TermOf(h nats.Header) uint64 {
	n, err := strconv.ParseUint(h.Get(HeaderTerm), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (m Message) checkObject() error {
	var o struct {
		Metadata struct {
			UID  string `json:"uid"`
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(m.Object, &o); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUndecodable, m.Ref, err)
	}
	if o.Metadata.Name != m.Name {
		return fmt.Errorf("%w: %s: metadata.name is %q", ErrUndecodable, m.Ref, o.Metadata.Name)
	}
	// An object created at the site has no uid of its own yet; the header then holds its
	// owner's.
	if o.Metadata.UID != "" && m.UID != "" && o.Metadata.UID != m.UID {
		return fmt.Errorf("%w: %s: metadata.uid is %q, header %s is %q", ErrUndecodable, m.Ref, o.Metadata.UID, HeaderUID, m.UID)
	}
	return nil
}
