package mqtt

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSubjectsAreReversible(t *testing.T) {
	for _, name := range []string{"pump", "pump.south", "a.b.c", "x-1"} {
		namespace, got, what, ok := parseDevice(deviceSubject("default", name, twinGet))
		if !ok || namespace != "default" || got != name || what != twinGet {
			t.Errorf("%s: %q %q %q %t", name, namespace, got, what, ok)
		}
	}
	for _, subject := range []string{"", "$hw.events.device.default", "$hw.events.device.default.pump", "$hw.events.node.x.membership.get"} {
		if _, _, _, ok := parseDevice(subject); ok {
			t.Errorf("%q is taken for a device's", subject)
		}
	}
}

func TestData(t *testing.T) {
	got := string(appendData(nil, &devices.Samples{RecordNumber: devices.RecordNumber{Epoch: 5, Sequence: 9}, Samples: []devices.Sample{
		{Property: "t", Value: devices.Float32(21.5), Quality: devices.Good, Time: 1000},
		{Property: `"ü`, Value: devices.String("a\\b\n"), Quality: devices.Good, Time: 1001},
		{Property: "n", Quality: devices.Bad, Reason: "Timeout", Time: 999},
	}}))
	const want = `{"event_id":"5.9","timestamp":1001,"data":{` +
		`"t":{"value":"21.5","metadata":{"timestamp":1000,"quality":"good","type":"float"}},` +
		`"\"ü":{"value":"a\\b\n","metadata":{"timestamp":1001,"quality":"good","type":"string"}},` +
		`"n":{"value":"","metadata":{"timestamp":999,"quality":"bad","reason":"Timeout"}}}}`
	if got != want || !json.Valid([]byte(got)) {
		t.Errorf("data:\n%s\nwant:\n%s", got, want)
	}
}

// TestDocumentsBatchChanges makes changes faster than documents may be published.
func TestDocumentsBatchChanges(t *testing.T) {
	d := newDevice("default", "pump")
	d.apply(&v1beta1.Device{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pump"},
		Spec:       v1beta1.DeviceSpec{Properties: []v1beta1.DeviceProperty{{Name: "p", Desired: &v1beta1.TwinProperty{Value: "9"}}, {Name: "q"}}},
	})
	observe := func(at int64, v devices.Value, quality devices.Quality) {
		d.observe(&devices.Samples{Samples: []devices.Sample{{Property: "p", Value: v, Quality: quality, Time: at}}}, true)
	}
	document := func(at time.Duration) string {
		b, err := json.Marshal(d.document(time.Unix(100, 0).Add(at)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	p := func(v string, at int, quality string) string {
		return fmt.Sprintf(`{"expected":{"value":"9"},"actual":{"value":%q,"metadata":{"timestamp":%d,"quality":%q}},"metadata":{"type":"int"}}`, v, at, quality)
	}
	observe(1, devices.Int(1), devices.Good)
	for _, step := range []struct {
		do   func()
		at   time.Duration
		want string
	}{
		{func() {}, 0, `{"p":{"last":{"expected":{"value":"9"}},"current":` + p("1", 1, "good") + `}}`},
		{func() { observe(2, devices.Int(1), devices.Good) }, 2 * time.Second, `null`}, // no change
		{
			func() { observe(3, devices.Int(2), devices.Good); observe(4, devices.Int(3), devices.Good) }, 3 * time.Second,
			`{"p":{"last":` + p("1", 2, "good") + `,"current":` + p("3", 4, "good") + `}}`,
		},
		{func() { observe(5, devices.Int(4), devices.Good) }, 3500 * time.Millisecond, `null`}, // too early
		{
			func() { observe(6, devices.Value{}, devices.Bad) }, 4 * time.Second,
			`{"p":{"last":` + p("3", 4, "good") + `,"current":` + p("4", 5, "bad") + `}}`,
		}, // the last good value stays
	} {
		step.do()
		if got := document(step.at); got != step.want {
			t.Errorf("document at %s:\n%s\nwant\n%s", step.at, got, step.want)
		}
	}
	// What changes while nobody follows is in no document.
	d.observe(&devices.Samples{Samples: []devices.Sample{{Property: "p", Value: devices.Int(5), Quality: devices.Good, Time: 7}}}, false)
	if got := document(6 * time.Second); got != "null" {
		t.Errorf("document for nobody: %s", got)
	}
	observe(8, devices.Int(6), devices.Good)
	if got, want := document(7*time.Second), `{"p":{"last":`+p("5", 7, "good")+`,"current":`+p("6", 8, "good")+`}}`; got != want {
		t.Errorf("first document:\n%s\nwant\n%s", got, want)
	}
	if got := d.delta(); len(got) != 1 || got["p"] != "9" {
		t.Errorf("delta: %v", got)
	}
}

func FuzzReadUpdate(f *testing.F) {
	f.Add([]byte(`{"event_id":"1","twin":{"p":{"expected":{"value":"1"}}}}`))
	f.Add([]byte(`{"event_id":"1","twin":{"p":null,"q":{"actual":{}}}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		u, err := readUpdate(payload)
		if err == nil && len(u.expected)+len(u.actual) == 0 {
			t.Errorf("%q is taken as %+v", payload, u)
		}
	})
}

func FuzzData(f *testing.F) {
	f.Add("t", "x", "r")
	f.Fuzz(func(t *testing.T, property, text, reason string) {
		b := appendData(nil, &devices.Samples{Samples: []devices.Sample{{Property: property, Value: devices.String(text), Quality: devices.Good, Reason: reason}}})
		if !json.Valid(b) {
			t.Errorf("not JSON: %s", b)
		}
	})
}
