package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
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
	// Known are the incarnations of the stream, as far as they are known here.
	Known []int64 `json:"known,omitempty"`
}

// PositionAnswer carries the Nats-Msg-Id of the site's last message in the hub's stream,
// empty if there is none, or the error for which it is unknown.
type PositionAnswer struct {
	ID string `json:"id,omitempty"`
	// Known is the result of LastKnown for a telemetry stream, if ID is of an incarnation that the
	// query does not list: the site's store is older than what the hub has, and that is what both
	// have.
	Known string `json:"known,omitempty"`
	Error string `json:"error,omitempty"`
}

// IncarnationKnown reports whether the message id of the answer is of an incarnation that the query
// lists. It reports true for a query that lists none.
func (q PositionQuery) IncarnationKnown(id string) bool {
	parsed, err := ParseForwardID(id)
	return len(q.Known) == 0 || err == nil && slices.Contains(q.Known, parsed.Incarnation)
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
	// Reason is GapLimit, GapLost, GapSetAside or GapBudget.
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
	// GapBudget names samples that the site's budget did not allow. They are in the leaf's stream until
	// its limit removes them.
	GapBudget = "budget"
)

// LastKnown returns the Nats-Msg-Id of the newest message of a site in a stream at the hub that an
// incarnation out of known has sent, "" if there is none. It reads as many messages as the number of
// messages has binary digits.
//
// Messages of a store come before those of its later copies. Where two leaves with one identity have
// sent in turn, the result may be an older message than the newest.
func LastKnown(ctx context.Context, s jetstream.Stream, filter string, known []int64) (string, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return "", fmt.Errorf("look up stream: %w", err)
	}
	var id string
	// What is before from is known, or there is nothing; nothing known is looked for from to on.
	from, to := max(info.State.FirstSeq, 1), info.State.LastSeq+1
	for from < to {
		middle := from + (to-from)/2
		m, err := s.GetMsg(ctx, middle, jetstream.WithGetMsgSubject(filter))
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			to = middle
			continue
		case err != nil:
			return "", fmt.Errorf("read message %d: %w", middle, err)
		}
		found := m.Header.Get(jetstream.MsgIDHeader)
		parsed, err := ParseForwardID(found)
		if m.Sequence < to && err == nil && slices.Contains(known, parsed.Incarnation) {
			id, from = found, m.Sequence+1
		} else {
			to = middle
		}
	}
	return id, nil
}
