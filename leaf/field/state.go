package field

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// stateBucket is the key-value bucket with the device worker's state: the desired values and
// commands it has processed, so that after a restart or a redelivery it writes nothing twice.
const stateBucket = "device-state"

// markerTTL is the time for which the bucket keeps the marker of a deleted key.
const markerTTL = time.Hour

// state implements devices.State on the bucket.
type state struct{ kv jetstream.KeyValue }

func openState(ctx context.Context, js jetstream.JetStream) (*state, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: stateBucket, Description: "Desired values that the device worker has dealt with", History: 1, LimitMarkerTTL: markerTTL,
	})
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", stateBucket, err)
	}
	return &state{kv}, nil
}

// Load returns nil without an error if the key does not exist.
func (s *state) Load(ctx context.Context, key string) ([]byte, error) {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of bucket %s: %w", key, stateBucket, err)
	}
	return e.Value(), nil
}

// Save returns after the value is stored. With the site's sync_interval "always" it is then
// on disk.
func (s *state) Save(ctx context.Context, key string, value []byte) error {
	if _, err := s.kv.Put(ctx, key, value); err != nil {
		return fmt.Errorf("write %s of bucket %s: %w", key, stateBucket, err)
	}
	return nil
}

// Delete removes the key and its history. The marker of the deletion expires after markerTTL.
func (s *state) Delete(ctx context.Context, key string) error {
	if err := s.kv.Purge(ctx, key, jetstream.PurgeTTL(markerTTL)); err != nil {
		return fmt.Errorf("delete %s of bucket %s: %w", key, stateBucket, err)
	}
	return nil
}
