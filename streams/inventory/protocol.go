package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/streams"
)

// Request asks the bridge to compare what a site has stored with what it published: a Query,
// answered by an Answer. The site asks when it has caught up at the start of a session, every
// Interval, and when the bridge tells it to (streams.ControlVerify). Differences are repaired
// through DESIRED. On the wire its name is "manifest".
const Request = "manifest"

// Interval is the time between two comparisons of a connected site's inventory with the
// bridge's. A site also compares at the start of each session.
const Interval = 10 * time.Minute

const (
	// MaxQuery bounds a query, in bytes; usually the hub's max_payload is the lower limit.
	MaxQuery = 4 << 20
	// minEntryBytes is the smallest encoded size of an entry. A query that claims more entries
	// than fit is rejected before they are decoded.
	minEntryBytes = 32
)

// ErrQuery marks a query that does not follow the protocol.
var ErrQuery = errors.New("malformed inventory query")

// Query describes what a site has on disk. The first query of a comparison carries Digest; the
// following ones carry what the answers asked for.
type Query struct {
	// HubPosition is the position of the last message that the site has stored.
	streams.HubPosition
	Count  int64  `json:"count"`
	Digest string `json:"digest"`
	// Buckets holds Set.Buckets, in answer to SendBuckets.
	Buckets []byte `json:"buckets,omitempty"`
	// Entries holds all entries of the buckets listed in Of, in answer to SendEntries. A site
	// sends as many whole buckets as fit into one message.
	Of      []int   `json:"of,omitempty"`
	Entries []Entry `json:"entries,omitempty"`
}

// DecodeQuery decodes a query with bounded memory. All its errors are ErrQuery.
func DecodeQuery(data []byte) (Query, error) {
	if len(data) > MaxQuery {
		return Query{}, fmt.Errorf("%w: %d bytes", ErrQuery, len(data))
	}
	if n := bytes.Count(data, []byte("{")); n > 1+len(data)/minEntryBytes {
		return Query{}, fmt.Errorf("%w: %d entries in %d bytes", ErrQuery, n, len(data))
	}
	var q struct {
		Query
		Of boundedInts `json:"of"`
	}
	if err := json.Unmarshal(data, &q); err != nil {
		return Query{}, fmt.Errorf("%w: %w", ErrQuery, err)
	}
	q.Query.Of = q.Of
	return q.Query, nil
}

// boundedInts is a list with at most as many numbers as there are buckets.
type boundedInts []int

// UnmarshalJSON implements json.Unmarshaler.
func (b *boundedInts) UnmarshalJSON(data []byte) error {
	if bytes.Count(data, []byte(",")) >= NumBuckets {
		return fmt.Errorf("more than %d buckets", NumBuckets)
	}
	return json.Unmarshal(data, (*[]int)(b))
}

// State is the outcome of a comparison.
type State string

// The outcomes.
const (
	// Equal: the site has what it should have.
	Equal State = "equal"
	// Behind: messages are on their way to the site, or the bridge is not ready; the site asks
	// again when it has caught up.
	Behind State = "behind"
	// SendBuckets and SendEntries: the sets differ; the site asks again with its buckets, or
	// with the entries of the buckets in the answer.
	SendBuckets State = "send-buckets"
	SendEntries State = "send-entries"
	// Repairing: the bridge has published again what differs; the site asks again when it has
	// caught up.
	Repairing State = "repairing"
)

// Answer is the bridge's answer to a Query.
type Answer struct {
	State State `json:"state"`
	// Buckets lists the buckets that differ, with SendEntries.
	Buckets []int `json:"buckets,omitempty"`
	// Published counts the objects, tombstones included, that were published again, with
	// Repairing.
	Published int `json:"published,omitempty"`
	// Error is the reason why a query was rejected, for example because it is malformed.
	Error string `json:"error,omitempty"`
}

// DecodeAnswer decodes an answer. It returns an error if the bridge rejected the query.
func DecodeAnswer(data []byte) (Answer, error) {
	var a Answer
	if err := json.Unmarshal(data, &a); err != nil {
		return Answer{}, fmt.Errorf("decode the answer about the inventory: %w", err)
	}
	if a.Error != "" {
		return Answer{}, errors.New("the bridge refuses the inventory: " + a.Error)
	}
	if a.State == SendEntries && len(a.Buckets) == 0 {
		return Answer{}, errors.New("the bridge asks for the entries of no bucket")
	}
	return a, nil
}
