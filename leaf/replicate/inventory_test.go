package replicate

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

func FuzzInventoryAnswer(f *testing.F) {
	f.Add([]byte(`{"state":"send-entries","buckets":[1,255]}`))
	f.Add([]byte(`{"state":"equal"}`))
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseInventoryAnswer(&nats.Msg{Data: data})
		if err != nil {
			return
		}
		var sizes [streams.InventoryBuckets]int
		if a.State == streams.InventorySendEntries {
			of, err := fitting(a.Buckets, &sizes, 1000)
			if err == nil && len(of) != len(a.Buckets) {
				t.Fatalf("%d of %d empty buckets fit", len(of), len(a.Buckets))
			}
		}
	})
}
