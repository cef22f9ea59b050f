package devices

import "context"

// State is a key-value store that survives restarts. Keys are <namespace>/<name>, or
// <namespace>/<name>/commands/<number>. Save returns after the value is safe from a power
// cut.
type State interface {
	// Load returns the value of a key, or nil without an error if there is none.
	Load(ctx context.Context, key string) ([]byte, error)
	Save(ctx context.Context, key string, value []byte) error
	// Delete deletes a key; a missing key is no error.
	Delete(ctx context.Context, key string) error
}
