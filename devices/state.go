package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// State keeps small values across restarts. Keys are <namespace>/<name>, or
// <namespace>/<name>/commands/<number>. Save returns after the value would survive a
// power cut.
type State interface {
	// Load returns the value of a key, nil without an error when there is none.
	Load(ctx context.Context, key string) ([]byte, error)
	Save(ctx context.Context, key string, value []byte) error
	// Delete forgets a key; a key that is not there is no error.
	Delete(ctx context.Context, key string) error
}

// errCorrupt reports a value that no retry makes readable.
var errCorrupt = errors.New("corrupt state")

// memory is what is kept of a device besides its commands. UID fences it from an
// earlier device of the same name.
type memory struct {
	UID    string          `json:"uid"`
	Wishes map[string]wish `json:"desired,omitempty"`
	// Origin is the newest state of the object that was seen.
	Origin origin `json:"origin,omitzero"`
	// LastOnline is when the device last answered, ms since 1970.
	LastOnline int64 `json:"lastOnline,omitempty"`
	// Segments is how many segments of the ledger may be there.
	Segments int `json:"segments,omitempty"`
}

// load reads the memory of a device. What an earlier device of its name left is
// forgotten but for the number of segments, which are still there. Where there is no
// memory, or none that is readable, any segment may be there.
func load(ctx context.Context, s State, device Ref) (memory, error) {
	fresh := memory{UID: device.UID, Wishes: map[string]wish{}, Segments: ledgerSegments}
	b, err := s.Load(ctx, device.String())
	if err != nil {
		return fresh, fmt.Errorf("load state of %s: %w", device, err)
	}
	if len(b) == 0 {
		return fresh, nil
	}
	m := memory{UID: device.UID, Wishes: map[string]wish{}}
	if err := json.Unmarshal(b, &m); err != nil {
		return fresh, fmt.Errorf("%w of %s: %w", errCorrupt, device, err)
	}
	m.Segments = max(0, min(m.Segments, ledgerSegments))
	if m.UID != device.UID {
		fresh.Segments = m.Segments
		return fresh, nil
	}
	return m, nil
}

func (m memory) save(ctx context.Context, s State, device Ref) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode state of %s: %w", device, err)
	}
	if err := s.Save(ctx, device.String(), b); err != nil {
		return fmt.Errorf("save state of %s: %w", device, err)
	}
	return nil
}

// forget deletes everything that is kept of a device, its memory last: where there is
// none, nothing is looked for.
func forget(ctx context.Context, s State, device Ref) error {
	b, err := s.Load(ctx, device.String())
	if err != nil {
		return fmt.Errorf("load state of %s: %w", device, err)
	}
	if len(b) == 0 {
		return nil
	}
	m, err := load(ctx, s, device)
	if err != nil && !errors.Is(err, errCorrupt) {
		return err
	}
	for i := range m.Segments {
		if err := s.Delete(ctx, segmentKey(device, i)); err != nil {
			return fmt.Errorf("forget commands of %s: %w", device, err)
		}
	}
	if err := s.Delete(ctx, device.String()); err != nil {
		return fmt.Errorf("forget state of %s: %w", device, err)
	}
	return nil
}
