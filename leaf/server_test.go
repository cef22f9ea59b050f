package leaf

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// TestMakingAStreamIsHealthy asks for the store's health while streams are made.
func TestMakingAStreamIsHealthy(t *testing.T) { // alone: it is about how long a stream takes
	s, ctx := newSite(t)
	s.open(t, ctx)
	made := make(chan error, 1)
	go func() {
		for i := range 100 {
			name := fmt.Sprintf("S%d", i)
			if _, err := s.js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
				made <- err
				return
			}
		}
		made <- nil
	}()
	for asked := 0; ; asked++ {
		if err := s.host.storeError(); err != nil {
			t.Fatalf("after %d questions: %v", asked, err)
		}
		select {
		case err := <-made:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}
