package desired

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// While a site is disconnected, the memory that the bridge and the hub use for it depends on
// the number of objects, not on the number of changes.
func TestMemoryIsBoundedByObjects(t *testing.T) {
	for _, test := range []struct{ objects, changes int }{{10, 100_000}, {500, 10_000}} {
		t.Run(fmt.Sprintf("%d changes of %d objects", test.changes, test.objects), func(t *testing.T) {
			p := startPublishing(t)
			keys := p.populate(test.objects)
			before, published := heap(), p.counters.Published.Load()
			start := time.Now()
			for i := range test.changes {
				p.write(keys[i%len(keys)], i+1)
				if i%(test.changes/5) == test.changes/5-1 {
					p.await("the changes published", p.idle)
				}
			}
			took := time.Since(start)
			after := heap()
			n := p.counters.Published.Load() - published
			t.Logf("heap %.1f MiB before, %.1f MiB after %d changes of %d objects in %v, of which %d were published, the others merged",
				mib(before), mib(after), test.changes, test.objects, took.Round(time.Millisecond), n)
			// The hub caches its last writes, about 1 KiB a message.
			if after > before+n<<10+3<<19 {
				t.Errorf("the heap grew from %.1f to %.1f MiB", mib(before), mib(after))
			}
			info, err := p.hub.Desired.Info(t.Context(), jetstream.WithSubjectFilter(">"))
			if err != nil {
				t.Fatal(err)
			}
			got, want := 0, test.objects+2
			for subject := range info.State.Subjects {
				if !streams.IsPart(subject) { // of the pod, which names all objects
					got++
				}
			}
			if got != want {
				t.Errorf("the hub holds %d messages, want %d: one for each object", got, want)
			}
			if n < uint64(test.objects) {
				t.Errorf("%d messages were published", n)
			}
		})
	}
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
