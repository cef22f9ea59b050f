package modbus

import (
	"context"
	"sync"
)

// kept is a state that lives as long as a test, across hosts.
type kept struct {
	mu     sync.Mutex
	values map[string][]byte
}

func newKept() *kept { return &kept{values: map[string][]byte{}} }

func (k *kept) Load(_ context.Context, key string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.values[key], nil
}

func (k *kept) Save(_ context.Context, key string, value []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.values[key] = value
	return nil
}

func (k *kept) Delete(_ context.Context, key string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.values, key)
	return nil
}
