package devices_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/petiole-io/petiole/devices"
)

// FuzzAppendJSON compares the encoding of a record with that of encoding/json, byte for byte.
func FuzzAppendJSON(f *testing.F) {
	f.Add("plant", "pump 1", "uid", "node", "temperature", "good", "", int64(7), uint64(9), uint64(0), 21.5, false)
	f.Add("", "", "", "", "a\"b\\c<d>&é\u2028\x00\xff\x7f", "bad", "NotANumber", int64(-1), uint64(math.MaxUint64), uint64(3), 1e-7, true)
	f.Fuzz(func(t *testing.T, namespace, name, uid, node, text, quality, reason string, epoch int64, sequence, dropped uint64, number float64, marked bool) {
		s := &devices.Samples{
			Device: devices.Ref{Namespace: namespace, Name: name, UID: uid}, Node: node,
			RecordNumber: devices.RecordNumber{Epoch: epoch, Sequence: sequence}, Dropped: dropped,
		}
		if marked {
			s.Clock = &devices.ClockMark{State: text, Boot: name, Offset: epoch}
		}
		for i, v := range []devices.Value{
			{},
			devices.Bool(true), devices.Bool(false), devices.Int(epoch), devices.Uint(sequence), devices.Float(number), devices.Float32(float32(number)),
			devices.String(text), devices.Bytes([]byte(text)),
		} {
			s.Samples = append(s.Samples, devices.Sample{Property: text, Value: v, Quality: devices.Quality(quality), Reason: reason, Time: epoch + int64(i)})
			compareJSON(t, s)
		}
		s.Samples = nil
		compareJSON(t, s)
		s.Samples = []devices.Sample{}
		compareJSON(t, s)
	})
}

func compareJSON(t *testing.T, s *devices.Samples) {
	t.Helper()
	expected, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.AppendJSON([]byte("x"))
	if err != nil || string(got) != "x"+string(expected) {
		t.Fatalf("%s, %v; expected %s", got, err, expected)
	}
}
