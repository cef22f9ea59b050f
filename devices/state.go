package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// State keeps one small value for each device across restarts. Keys are
// <namespace>/<name>. Save returns after the value would survive a power cut.
type State interface {
	// Load returns the value of a key, nil without an error when there is none.
	Load(ctx context.Context, key string) ([]byte, error)
	Save(ctx context.Context, key string, value []byte) error
	// Delete forgets a key; a key that is not there is no error.
	Delete(ctx context.Context, key string) error
}

// errCorrupt reports a value that no retry makes readable.
var errCorrupt = errors.New("corrupt state")

// memory is what is kept of a device: the commands by property. UID fences it from
// an earlier device of the same name.
type memory struct {
	UID      string             `json:"uid"`
	Commands map[string]command `json:"commands"`
}

func load(ctx context.Context, s State, device Ref) (map[string]command, error) {
	b, err := s.Load(ctx, device.String())
	if err != nil {
		return nil, fmt.Errorf("load state of %s: %w", device, err)
	}
	var m memory
	if len(b) == 0 {
		return map[string]command{}, nil
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w of %s: %w", errCorrupt, device, err)
	}
	if m.UID != device.UID || m.Commands == nil {
		return map[string]command{}, nil
	}
	return m.Commands, nil
}

func save(ctx context.Context, s State, device Ref, commands map[string]command) error {
	b, err := json.Marshal(memory{UID: device.UID, Commands: commands})
	if err != nil {
		return fmt.Errorf("encode state of %s: %w", device, err)
	}
	if err := s.Save(ctx, device.String(), b); err != nil {
		return fmt.Errorf("save state of %s: %w", device, err)
	}
	return nil
}
