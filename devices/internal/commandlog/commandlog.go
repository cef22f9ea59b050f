// Package commandlog records the commands of one device, so that none is carried out twice.
package commandlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// The command log stores its records in segments, each under its own key, so that a command
// writes one segment and not the whole log.
const (
	// Segments is the largest number of segments.
	Segments       = 16
	segmentRecords = 16
	// Longest is the longest time until the deadline of a command. A deadline that is further away
	// is by a clock that was set back since.
	Longest = 24 * time.Hour
)

// ErrCorrupt reports segments that are unreadable for good.
var ErrCorrupt = errors.New("corrupt state")

// Record is a command that may have been carried out.
type Record struct {
	ID string `json:"id"`
	// Number counts the commands of a device.
	Number uint64 `json:"number"`
	// Deadline is in ms since 1970.
	Deadline int64 `json:"deadline"`
	// until is the deadline, which does not depend on the wall clock. It is zero if the record was
	// read from disk.
	until time.Time
	// Method and Properties are those of the command, until there is a Result.
	Method     string                 `json:"method,omitempty"`
	Properties map[string]string      `json:"properties,omitempty"`
	Result     *devices.CommandResult `json:"result,omitempty"`
}

// segment is the value stored under one key. UID distinguishes it from that of an earlier
// device of the same name.
type segment struct {
	UID     string   `json:"uid"`
	Records []Record `json:"records"`
}

// Log has the newest commands of a device: at least 240 and at most 256, and all whose
// deadlines have not passed. So a command is never carried out twice: either the log has it,
// or its deadline has passed.
type Log struct {
	segments [Segments][]Record
	current  int
	number   uint64
	// Stored is the number of segments, up to the last one that existed when the log was
	// read.
	Stored int
}

// Find returns the record of an id, or nil.
func (l *Log) Find(id string) *Record {
	for i := range l.segments {
		for j := range l.segments[i] {
			if l.segments[i][j].ID == id {
				return &l.segments[i][j]
			}
		}
	}
	return nil
}

// open reports whether the deadline of a command has not passed. That of a record that was read from
// disk is judged by the wall clock, and has passed if no command can have it: it was recorded by
// another time.
func (r *Record) open(now time.Time) bool {
	if !r.until.IsZero() {
		return r.until.After(now)
	}
	left := r.Deadline - now.UnixMilli()
	return left > 0 && left <= Longest.Milliseconds()
}

// Add appends a command that is about to be carried out, with its deadline, and returns its segment.
// It returns false if the log is full of commands whose deadlines have not passed.
func (l *Log) Add(r Record, deadline, now time.Time) (segment int, ok bool) {
	r.Deadline, r.until = deadline.UnixMilli(), deadline
	at := l.current
	if len(l.segments[at]) >= segmentRecords {
		at = (at + 1) % Segments
		for i := range l.segments[at] {
			if l.segments[at][i].open(now) {
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

// Remove removes the record that Add has just appended.
func (l *Log) Remove(id string) {
	s := l.segments[l.current]
	if n := len(s); n > 0 && s[n-1].ID == id {
		l.segments[l.current] = s[:n-1]
	}
}

// Finish records the result of a command and returns its segment.
func (l *Log) Finish(id string, result devices.CommandResult) (segment int, ok bool) {
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

// Interrupted returns the commands without a result, which a stop of the process interrupted.
// It gives them one; the caller must save the segments.
func (l *Log) Interrupted() (open []Record, segments []int) {
	for i := range l.segments {
		before := len(open)
		for j := range l.segments[i] {
			r := &l.segments[i][j]
			if r.Result != nil {
				continue
			}
			open = append(open, *r)
			r.Result = &devices.CommandResult{ID: r.ID, Ack: devices.Failed, Reason: devices.ReasonUnknown, Message: "interrupted by a restart"}
			r.Method, r.Properties = "", nil
		}
		if len(open) > before {
			segments = append(segments, i)
		}
	}
	return open, segments
}

// Key returns the key of a segment of a device.
func Key(device devices.Ref, i int) string { return fmt.Sprintf("%s/commands/%d", device, i) }

// Save stores one segment.
func (l *Log) Save(ctx context.Context, s devices.State, device devices.Ref, i int) error {
	b, err := json.Marshal(segment{UID: device.UID, Records: l.segments[i]})
	if err != nil {
		return fmt.Errorf("encode commands of %s: %w", device, err)
	}
	if err := s.Save(ctx, Key(device, i), b); err != nil {
		return fmt.Errorf("save commands of %s: %w", device, err)
	}
	return nil
}

// Load reads the first n segments of a device. It skips corrupt ones and returns
// ErrCorrupt together with the others.
func Load(ctx context.Context, s devices.State, device devices.Ref, n int) (Log, error) {
	var l Log
	var corrupt error
	for i := range n {
		b, err := s.Load(ctx, Key(device, i))
		if err != nil {
			return l, fmt.Errorf("load commands of %s: %w", device, err)
		}
		if len(b) == 0 {
			continue
		}
		l.Stored = i + 1
		var g segment
		if err := json.Unmarshal(b, &g); err != nil {
			corrupt = fmt.Errorf("%w of commands of %s: %w", ErrCorrupt, device, err)
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
