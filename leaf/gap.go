package leaf

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
)

// missing divides the sequences from next up to before, which the stream no longer delivers, by
// reason: a limit dropped those before the first sequence of the stream, the others were lost.
func missing(next, before, first uint64) map[string]journal.Range {
	out := map[string]journal.Range{}
	if limit := min(before, max(first, 1)-1); next <= limit {
		out[streams.GapLimit] = journal.Range{From: next, To: limit}
		next = limit + 1
	}
	if next <= before {
		out[streams.GapLost] = journal.Range{From: next, To: before}
	}
	return out
}

// gapMessage returns the record for TELEMETRY that replaces the missing sequences. It has the id
// of the last of them, so that the hub's position advances and a record that is sent again is
// dropped.
func gapMessage(site, stream string, l journal.Timeline, s journal.Range, reason string) (*nats.Msg, error) {
	id := l.MessageID(site, stream, s.To)
	data, err := json.Marshal(streams.Gap{
		Stream: stream, Created: id.Created.UnixNano(), From: s.From, To: s.To, Reason: reason, Time: time.Now(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode a gap of %s: %w", stream, err)
	}
	msg := nats.NewMsg(streams.TelemetrySubject(site, streams.GapKind, stream))
	msg.Header.Set(jetstream.MsgIDHeader, id.String())
	msg.Data = data
	return msg, nil
}
