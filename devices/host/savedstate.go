package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/commandlog"
	"github.com/petiole-io/petiole/devices/internal/desired"
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
