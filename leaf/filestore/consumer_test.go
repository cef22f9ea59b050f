package filestore

import (
	"encoding/binary"
	"testing"
)

// state is a consumer's state file of these numbers.
func state(version byte, numbers ...uint64) []byte {
	b := []byte{stateMagic, version}
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// FuzzCountsFit: whatever follows, a count of more than that has bytes is refused.
func FuzzCountsFit(f *testing.F) {
	f.Add(state(2, 1, 0, 2, 2, 0, 1, 8, 1))
	f.Add(state(1))
	f.Fuzz(func(t *testing.T, data []byte) {
		countsFit(data)
		if countsFit(append(state(2, 1, 1, 1, 1, uint64(len(data))+1), data...)) {
			t.Fatal("a count beyond the end is accepted")
		}
	})
}

func TestCountsFit(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want bool
	}{
		"nothing under way":             {state(2, 7, 7, 9, 9, 0, 0), true},
		"two deliveries, one repeated":  {state(2, 7, 7, 9, 9, 2, 5, 1, 1, 0, 2, 2, 0, 1, 8, 1), true},
		"two deliveries of version 1":   {state(1, 7, 7, 9, 9, 2, 5, 1, 0, 2, 0, 0), true},
		"cut short":                     {state(2, 7, 7, 9), true}, // the server finds that
		"empty":                         {nil, true},
		"encrypted":                     {[]byte("x" + string(state(2, 1, 1, 1, 1, 1<<28))), true},
		"deliveries that are not there": {state(2, 1, 1, 1, 1, 1<<28, 0), false},
		"repeated that are not there":   {state(2, 1, 1, 1, 1, 0, 1<<50), false},
		"both, of version 1":            {state(1, 1, 1, 1, 1, 1, 0, 1, 0, 1<<50), false},
	} {
		if got := countsFit(c.data); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
