package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/internal/commandlog"
	"github.com/petiole-io/petiole/devices/internal/desired"
	"github.com/petiole-io/petiole/devices/internal/twin"
)

// errCorrupt reports a value that is unreadable for good.
var errCorrupt = errors.New("corrupt state")

// savedState is the saved state of a device besides its commands. UID distinguishes it from
// that of an earlier device of the same name.
type savedState struct {
	UID     string                   `json:"uid"`
	Desired map[string]desired.State `json:"desired,omitempty"`
	// Origin is the newest version of the object that was seen.
	Origin origin `json:"origin,omitzero"`
	// LastOnline is when the device last responded, ms since 1970.
	LastOnline int64 `json:"lastOnline,omitempty"`
	// Segments is the number of segments of the command log that may exist.
	Segments int `json:"segments,omitempty"`
}

// loadState reads the saved state of a device. Of that of an earlier device of its name it
// keeps only the number of segments, which still exist. If there is no readable state any
// segment may exist.
func loadState(ctx context.Context, s devices.State, device devices.Ref) (savedState, error) {
	fresh := savedState{UID: device.UID, Desired: map[string]desired.State{}, Segments: commandlog.Segments}
	b, err := s.Load(ctx, device.String())
	if err != nil {
		return fresh, fmt.Errorf("load state of %s: %w", device, err)
	}
	if len(b) == 0 {
		return fresh, nil
	}
	m := savedState{UID: device.UID, Desired: map[string]desired.State{}}
	if err := json.Unmarshal(b, &m); err != nil {
		return fresh, fmt.Errorf("%w of %s: %w", errCorrupt, device, err)
	}
	m.Segments = max(0, min(m.Segments, commandlog.Segments))
	if m.UID != device.UID {
		fresh.Segments = m.Segments
		return fresh, nil
	}
	return m, nil
}

func (m savedState) save(ctx context.Context, s devices.State, device devices.Ref) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode state of %s: %w", device, err)
	}
	if err := s.Save(ctx, device.String(), b); err != nil {
		return fmt.Errorf("save state of %s: %w", device, err)
	}
	return nil
}

// savedDevice keeps what is saved of one device, and when it must be saved.
type savedDevice struct {
	state devices.State
	facts *twin.Device
	log   *zap.Logger

	record  savedState // without the desired values, which are in facts
	loaded  bool
	loadAt  time.Time // no attempt to load before then
	backoff backoff.Backoff
	changed bool // record or facts have changes that are not stored
	fenced  bool // the object is older than recorded: no writes
}

// load reads the saved state of the device, and passes the recorded commands to start. Without
// it a value could be written twice, so load is repeated until it returns true.
func (s *savedDevice) load(ctx context.Context, start func(commandlog.Log)) bool {
	if s.loaded {
		return true
	}
	if time.Now().Before(s.loadAt) {
		return false
	}
	m, l, err := s.read(ctx)
	if ctx.Err() != nil {
		return false // the worker stops: the error follows from that
	}
	if err != nil {
		s.log.Warn("load state of device", zap.Error(err))
		s.loadAt = time.Now().Add(s.backoff.Next())
		return false
	}
	s.record, s.loaded = m, true
	s.facts.Desired = m.Desired
	for p, c := range m.Desired {
		m.Desired[p] = c.AfterStart(time.Now())
	}
	if m.LastOnline > 0 {
		s.facts.LastOnline = time.UnixMilli(m.LastOnline)
	}
	start(l)
	return true
}

// read reads the saved state and the command log. It goes on without what is corrupt, which is
// the smaller harm: desired values are compared with the device before they are written.
func (s *savedDevice) read(ctx context.Context) (savedState, commandlog.Log, error) {
	m, err := loadState(ctx, s.state, s.facts.Ref)
	if err != nil && !errors.Is(err, errCorrupt) {
		return m, commandlog.Log{}, err
	}
	if err != nil {
		s.log.Error("saved state is corrupt and is ignored", zap.Error(err))
	}
	l, err := commandlog.Load(ctx, s.state, s.facts.Ref, m.Segments)
	if err != nil && !errors.Is(err, commandlog.ErrCorrupt) {
		return m, l, err
	}
	if err != nil {
		s.log.Error("command log is corrupt and is ignored in part", zap.Error(err))
	}
	m.Segments = l.Stored
	return m, l, nil
}

// save saves the state of the device.
func (s *savedDevice) save(ctx context.Context) error {
	s.record.UID, s.record.Desired = s.facts.Ref.UID, s.facts.Desired
	s.record.LastOnline = unixMilli(s.facts.LastOnline)
	if err := s.record.save(ctx, s.state, s.facts.Ref); err != nil {
		return err
	}
	s.changed = false
	return nil
}

// finish saves what has changed when the worker has stopped.
func (s *savedDevice) finish(ctx context.Context) {
	if !s.loaded || (!s.changed && s.record.LastOnline == unixMilli(s.facts.LastOnline)) {
		return
	}
	if err := s.save(ctx); err != nil {
		s.log.Warn("save state at stop", zap.Error(err))
	}
}

// delete deletes the state of a device that was deleted.
func (s *savedDevice) delete(ctx context.Context) error {
	err := deleteState(ctx, s.state, s.facts.Ref)
	if err != nil {
		s.log.Warn("delete state of deleted device", zap.Error(err))
	}
	return err
}

// keepSegments saves that n segments of the command log may exist.
func (s *savedDevice) keepSegments(ctx context.Context, n int) error {
	was := s.record.Segments
	if n <= was {
		return nil
	}
	s.record.Segments = n
	err := s.save(ctx)
	if err != nil {
		s.record.Segments = was
	}
	return err
}

// fence compares an object with the newest one that was seen, and reports whether it is older.
func (s *savedDevice) fence(o origin) bool {
	s.fenced = o.older(s.record.Origin)
	return s.fenced
}

// accept records an object that is not fenced as the newest one.
func (s *savedDevice) accept(o origin) {
	s.changed = s.changed || !o.coveredBy(s.record.Origin)
	s.record.Origin = o
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// deleteState deletes everything that is saved of a device, the state itself last. If that
// does not exist, nothing else is looked for.
func deleteState(ctx context.Context, s devices.State, device devices.Ref) error {
	b, err := s.Load(ctx, device.String())
	if err != nil {
		return fmt.Errorf("load state of %s: %w", device, err)
	}
	if len(b) == 0 {
		return nil
	}
	m, err := loadState(ctx, s, device)
	if err != nil && !errors.Is(err, errCorrupt) {
		return err
	}
	for i := range m.Segments {
		if err := s.Delete(ctx, commandlog.Key(device, i)); err != nil {
			return fmt.Errorf("forget commands of %s: %w", device, err)
		}
	}
	if err := s.Delete(ctx, device.String()); err != nil {
		return fmt.Errorf("forget state of %s: %w", device, err)
	}
	return nil
}
