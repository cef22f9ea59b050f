package streams

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// The headers of an object message. They repeat what a consumer must know before,
// or without, decoding the body.
const (
	HeaderOp      = "Petiole-Op"
	HeaderUID     = "Petiole-Uid"
	HeaderVersion = "Petiole-Version"
	HeaderEpoch   = "Petiole-Epoch"
	HeaderHash    = "Petiole-Hash"
	HeaderParts   = "Petiole-Parts"
	// HeaderTerm is the term of the bridge that published a message of DESIRED: how
	// often leadership had changed hands when it won the lease. A bridge that meets a
	// higher term than its own has been deposed.
	HeaderTerm = "Petiole-Term"
	// HeaderControl says what the bridge wants of the leaf, on a SyncSubject: ControlVerify.
	HeaderControl = "Petiole-Control"
	// HeaderTrace carries a W3C traceparent.
	HeaderTrace = "traceparent"
)

// ControlVerify tells a leaf to compare its manifest now (RequestManifest).
const ControlVerify = "verify"

// Op says what a message does to its object.
type Op string

const (
	// OpPut replaces the object, or creates it. Reported upward, it sets the status
	// of an existing object.
	OpPut Op = "put"
	// OpCreate asks the bridge to create an object that was made at the site.
	OpCreate Op = "create"
	// OpDelete removes the object: a tombstone, with an empty body. Deletes are
	// messages because purges do not cross the link.
	OpDelete Op = "delete"
)

// ErrUndecodable marks a message that no retry can make readable. A consumer keeps
// it aside, counts it and goes on.
var ErrUndecodable = errors.New("undecodable message")

// Message is one object on its way between cloud and site.
type Message struct {
	Ref
	Op Op
	// UID is the object's metadata.uid; it fences a recreated object from its
	// predecessor of the same name.
	UID string
	// Version is the resourceVersion at the source. It is comparable within one
	// Epoch only.
	Version string
	// Epoch names the store that counted Version: it changes when the API server's
	// storage is restored or replaced.
	Epoch string
	// Hash is the digest of what the publisher compares to tell a change from a
	// repetition.
	Hash string
	// Term is HeaderTerm, 0 when it is absent.
	Term uint64
	// Trace is a W3C traceparent, or empty.
	Trace string
	// Object is the JSON of the object, nil with OpDelete.
	Object json.RawMessage
}

// Encode makes the NATS message for subject.
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

// Decode reads a message of DESIRED, SITE_DESIRED, REPORTED or SITE_REPORTED. site
// is empty for the local subjects of a leaf. Every error is ErrUndecodable. The
// object is checked to be JSON and its uid to be the header's. A message with parts
// has no Object yet: see Load.
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

// TermOf reads HeaderTerm, 0 when it is absent or no number.
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
	// An object made at the site has no uid of its own yet; the header then names its owner's.
	if o.Metadata.UID != "" && m.UID != "" && o.Metadata.UID != m.UID {
		return fmt.Errorf("%w: %s: metadata.uid is %q, header %s is %q", ErrUndecodable, m.Ref, o.Metadata.UID, HeaderUID, m.UID)
	}
	return nil
}
