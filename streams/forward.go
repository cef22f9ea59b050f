package streams

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ForwardID identifies a message that a site's forwarder sends to the hub by its position in
// the leaf's stream. The ForwardID is the message's Nats-Msg-Id at the hub.
type ForwardID struct {
	Site, Stream string
	SitePosition
}

// String returns <site>.<stream>.<incarnation>.<seq>.
func (id ForwardID) String() string {
	return fmt.Sprintf("%s.%s.%d.%d", EscapeToken(id.Site), id.Stream, id.Incarnation, id.Seq)
}

// ParseForwardID is the inverse of String.
func ParseForwardID(s string) (ForwardID, error) {
	t := strings.Split(s, ".")
	if len(t) != 4 {
		return ForwardID{}, fmt.Errorf("message id %q is not <site>.<stream>.<incarnation>.<seq>", s)
	}
	site, err := UnescapeToken(t[0])
	if err != nil {
		return ForwardID{}, fmt.Errorf("message id %q: %w", s, err)
	}
	incarnation, err := strconv.ParseInt(t[2], 10, 64)
	if err != nil {
		return ForwardID{}, fmt.Errorf("message id %q: %w", s, err)
	}
	seq, err := strconv.ParseUint(t[3], 10, 64)
	if err != nil {
		return ForwardID{}, fmt.Errorf("message id %q: %w", s, err)
	}
	return ForwardID{site, t[1], SitePosition{incarnation, seq}}, nil
}

// RequestPosition asks the bridge how much of a leaf's stream the hub has stored: a
// PositionQuery, answered by a PositionAnswer. The forwarder asks at the start of a session
// and skips what is stored already, however long ago its acknowledgement was lost: it does
// not depend on the hub's duplicate window.
const RequestPosition = "position"

// PositionQuery names one of the leaf's streams that are forwarded.
type PositionQuery struct {
	Stream string `json:"stream"`
}

// PositionAnswer carries the Nats-Msg-Id of the site's last message in the hub's stream,
// empty if there is none, or the error for which it is unknown.
type PositionAnswer struct {
	ID    string `json:"id,omitempty"`
	Error string `json:"error,omitempty"`
}

// Gap is a telemetry record about messages that a limit of the site dropped before the
// hub had them. Its kind is GapKind, its source the leaf's stream.
type Gap struct {
	Stream string `json:"stream"`
	// Created is the creation time of the leaf's stream, ns since 1970.
	Created int64 `json:"created"`
	// From and To are the first and the last missing sequence.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	// Reason is GapLimit, GapLost or GapSetAside.
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// GapKind is the kind of a Gap in LocalTelemetrySubject and TelemetrySubject.
const GapKind = "gap"

// The reasons of a Gap: a limit of the leaf's stream, a damaged store, or a record that is in
// SITE_QUARANTINE because the hub or the line cannot take it.
const (
	GapLimit = "limit"
	GapLost  = "lost"

	GapSetAside = "setAside"
)
