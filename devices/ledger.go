package devices

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// The ledger keeps its records in segments of their own keys, so that a command
// writes the few records beside it and not all.
const (
	ledgerSegments = 16
	segmentRecords = 16
)

// record is a command that may have been carried out.
type record struct {
	ID string `json:"id"`
	// Number counts the commands of a device.
	Number uint64 `json:"number"`
	// Deadline is in ms since 1970.
	Deadline int64 `json:"deadline"`
	// Method and Properties say what was begun, until there is a Result.
	Method     string            `json:"method,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Result     *CommandResult    `json:"result,omitempty"`
}

// segment is what is stored under one key. UID fences it from an earlier device of
// the same name.
type segment struct {
	UID     string   `json:"uid"`
	Records []record `json:"records"`
}

// ledger remembers the newest commands of a device: at least 240 and at most 256 of
// them, and in any case those whose deadline has not passed. So a command with a
// deadline is never carried out twice: either it is known here, or it is too late.
type ledger struct {
	segments [ledgerSegments][]record
	current  int
	number   uint64
	// stored is how many segments were stored when it was read, up to the last one.
	stored int
}

// find is the record of an id, nil when there is none.
func (l *ledger) find(id string) *record {
	for i := range l.segments {
		for j := range l.segments[i] {
			if l.segments[i][j].ID == id {
				return &l.segments[i][j]
			}
		}
	}
	return nil
}

// add records a command that is about to be carried out and returns its segment. It
// refuses when the oldest records could not be forgotten, because their deadlines
// have not passed.
func (l *ledger) add(r record, now time.Time) (segment int, ok bool) {
	at := l.current
	if len(l.segments[at]) >= segmentRecords {
		at = (at + 1) % ledgerSegments
		for _, old := range l.segments[at] {
			if old.Deadline > now.UnixMilli() {
				return at, false
			}
		}
		l.segments[at] = nil
	}
	l.number++
	r.Number = l.number
	l.current = at
	l.segments[at] = append(l.segments[at], r)
	return at, true
}

// remove takes back what add has just recorded.
func (l *ledger) remove(id string) {
	s := l.segments[l.current]
	if n := len(s); n > 0 && s[n-1].ID == id {
		l.segments[l.current] = s[:n-1]
	}
}

// finish records the result of a command and returns its segment.
func (l *ledger) finish(id string, result CommandResult) (segment int, ok bool) {
	for i := range l.segments {
		for j := range l.segments[i] {
			if r := &l.segments[i][j]; r.ID == id {
				r.Result, r.Method, r.Properties = &result, "", nil
				return i, true
			}
		}
	}
	return 0, false
}

// interrupted are the commands of an earlier life that have no result. They get one,
// which is to be saved with their segments.
func (l *ledger) interrupted() (open []record, segments []int) {
	for i := range l.segments {
		before := len(open)
		for j := range l.segments[i] {
			r := &l.segments[i][j]
			if r.Result != nil {
				continue
			}
			open = append(open, *r)
			r.Result = &CommandResult{ID: r.ID, Ack: Failed, Reason: ReasonUnknown, Message: "interrupted by a restart"}
			r.Method, r.Properties = "", nil
		}
		if len(open) > before {
			segments = append(segments, i)
		}
	}
	return open, segments
}

func segmentKey(device Ref, i int) string { return fmt.Sprintf("%s/commands/%d", device, i) }

// saveSegment stores one segment.
func (l *ledger) saveSegment(ctx context.Context, s State, device Ref, i int) error {
	b, err := json.Marshal(segment{UID: device.UID, Records: l.segments[i]})
	if err != nil {
		return fmt.Errorf("encode commands of %s: %w", device, err)
	}
	if err := s.Save(ctx, segmentKey(device, i), b); err != nil {
		return fmt.Errorf("save commands of %s: %w", device, err)
	}
	return nil
}

// loadLedger reads the first n segments of a device. One that is unreadable is
// reported as errCorrupt with the rest of the ledger.
func loadLedger(ctx context.Context, s State, device Ref, n int) (ledger, error) {
	var l ledger
	var corrupt error
	for i := range n {
		b, err := s.Load(ctx, segmentKey(device, i))
		if err != nil {
			return l, fmt.Errorf("load commands of %s: %w", device, err)
		}
		if len(b) == 0 {
			continue
		}
		l.stored = i + 1
		var g segment
		if err := json.Unmarshal(b, &g); err != nil {
			corrupt = fmt.Errorf("%w of commands of %s: %w", errCorrupt, device, err)
			continue
		}
		if g.UID != device.UID {
			continue
		}
		l.segments[i] = g.Records
		for _, r := range g.Records {
			if r.Number > l.number {
				l.number, l.current = r.Number, i
			}
		}
	}
	return l, corrupt
}
