package storage

import (
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/streams/order"
)

func TestEpochBegins(t *testing.T) {
	t.Parallel()
	r := record{Number: 3, UID: "u1", Version: "1000", Marker: 7, Term: 2, Holder: "a"}
	for _, test := range []struct {
		name   string
		record record
		now    state
		known  uint64
		number uint64
		reason string
	}{
		{"storage goes on", r, state{UID: "u1", Version: "1001", Marker: 7}, 3, 3, ""},
		{"storage stands still", r, state{UID: "u1", Version: "1000", Marker: 7}, 3, 3, ""},
		{"marker ahead of the record", r, state{UID: "u1", Version: "1000", Marker: 8}, 3, 3, ""},
		{"version moved back", r, state{UID: "u1", Version: "999", Marker: 7}, 3, 4, reasonVersion},
		{"shorter version", r, state{UID: "u1", Version: "99", Marker: 7}, 3, 4, reasonVersion},
		{"marker moved back, version went on", r, state{UID: "u1", Version: "5000", Marker: 6}, 3, 4, reasonMarker},
		{"marker gone", r, state{UID: "u1", Version: "5000"}, 3, 4, reasonMarker},
		{"another cluster", r, state{UID: "u2", Version: "5000", Marker: 9}, 3, 4, reasonReplaced},
		{"first start", record{}, state{UID: "u1", Version: "5"}, 0, 1, reasonFirst},
		{"record lost, marker knows", record{}, state{UID: "u1", Version: "5", Marker: 2, Number: 8}, 0, 9, reasonFirst},
		{"record lost, messages know", record{}, state{UID: "u1", Version: "5", Number: 1}, 8, 9, reasonFirst},
	} {
		next, reason := test.record.next(test.now, test.known)
		if next.Number != test.number || reason != test.reason {
			t.Errorf("%s: epoch %d because of %q, want %d, %q", test.name, next.Number, reason, test.number, test.reason)
		}
		if next.UID != test.now.UID || next.Version != test.now.Version || next.Term != test.record.Term {
			t.Errorf("%s: record is %+v", test.name, next)
		}
	}
	if n := order.EpochNumber(r.name()); n != 3 {
		t.Errorf("number of %s is %d", r.name(), n)
	}
}

// Within one epoch the version never decreases, and no epoch is used twice, in any order of
// writes, restores and checks.
func TestEpochsKeepVersionsComparable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type image struct{ version, marker, number uint64 }
		now, saved := image{version: 1}, image{version: 1}
		record, highest := record{}, map[uint64]uint64{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				now.version += rapid.Uint64Range(1, 9).Draw(t, "writes")
			case 1:
				saved = now
			case 2:
				now = saved
			case 3:
				next, reason := record.next(state{UID: "u", Version: strconv.FormatUint(now.version, 10), Marker: now.marker, Number: now.number}, 0)
				if reason != "" && next.Number <= record.Number {
					t.Fatalf("epoch %d after %d", next.Number, record.Number)
				}
				record = next
				if now.version < highest[record.Number] {
					t.Fatalf("version %d in epoch %d after %d", now.version, record.Number, highest[record.Number])
				}
				// Each check writes the marker, so that a restore between two checks is
				// detected.
				now.version++
				now.marker, now.number = record.Marker+1, record.Number
				record.Marker, record.Version = now.marker, strconv.FormatUint(now.version, 10)
				highest[record.Number] = now.version
			}
		}
	})
}
