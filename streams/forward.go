package streams

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ForwardID identifies a message that a site's forwarder carries to the hub: the place
// in the leaf's stream where it was acknowledged to its producer. created, the creation
// time of that stream, keeps apart a store that was made anew. It is the message's
// Nats-Msg-Id at the hub.
type ForwardID struct {
	Site, Stream string
	Created      time.Time
	Seq          uint64
}

// String is <site>.<stream>.<created, ns since 1970>.<seq>.
func (id ForwardID) String() string {
	return fmt.Sprintf("%s.%s.%d.%d", EscapeToken(id.Site), id.Stream, id.Created.UnixNano(), id.Seq)
}

// ParseForwardID is the inverse of String.
func ParseForwardID(s string) (ForwardID, error) {
	t := strings.Split(s, ".")
	if len(t) != 4 {
		return ForwardID{}, fmt.Errorf("message id %q is not <site>.<stream>.<created>.<seq>", s)
	}
	site, err := UnescapeToken(t[0])
	if err != nil {
		return ForwardID{}, fmt.Errorf("message id %q: %w", s, err)
	}
	created, err := strconv.ParseInt(t[2], 10, 64)
	if err != nil {
		return ForwardID{}, fmt.Errorf("message id %q: %w", s, err)
	}
	seq, err := strconv.ParseUint(t[3], 10, 64)
	if err != nil {
		return ForwardID{}, fmt.Errorf("message id %q: %w", s, err)
	}
	return ForwardID{Site: site, Stream: t[1], Created: time.Unix(0, created), Seq: seq}, nil
}

// RequestPosition asks the bridge what of a leaf's stream the hub has stored: a
// PositionQuery, answered by a PositionAnswer. The forwarder asks at the start of a
// session and passes over what is stored already, however long ago its acknowledgement
// was lost: the hub's duplicate window is not relied upon.
const RequestPosition = "position"

// PositionQuery names one of the leaf's streams that are forwarded.
type PositionQuery struct {
	Stream string `json:"stream"`
}

// PositionAnswer carries the Nats-Msg-Id of the last message of the site in the hub's
// stream, empty when there is none, or why it is not known.
type PositionAnswer struct {
	ID    string `json:"id,omitempty"`
	Error string `json:"error,omitempty"`
}

// Gap is a record of TELEMETRY, of kind GapKind and with the leaf's stream as its
// source, that says what a limit of the site dropped before the hub had it.
type Gap struct {
	Stream string `json:"stream"`
	// Created is the creation time of the leaf's stream, ns since 1970.
	Created int64 `json:"created"`
	// From and To are the first and the last sequence that are missing.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	// Reason is GapLimit or GapLost.
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// GapKind is the kind of gap records (LocalTelemetrySubject, TelemetrySubject).
const GapKind = "gap"

// The reasons of gaps: a limit of the leaf's stream, or a store that was damaged.
const (
	GapLimit = "limit"
	GapLost  = "lost"
)
