package devices

import (
	"reflect"
	"testing"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

func TestNearestName(t *testing.T) {
	var review Review
	r := review.Start(Settings{})
	r.Text("", "slaveID", "unitID")
	r.Bool(false, "isRegisterSwap")
	r.Text("", "bit")
	for key, want := range map[string]string{
		"slaveeid": "slaveID", "isregisterswapped": "isRegisterSwap", "isRegisteSwap": "isRegisterSwap", "bits": "bit", "voltage": "", "unitid": "unitID",
	} {
		if got := review.Nearest(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

func TestSpellingOfASetting(t *testing.T) {
	config := func(k string) *v1beta1.CustomizedValue { return &v1beta1.CustomizedValue{Data: map[string]any{k: 1}} }
	d := Definition{
		Object: &v1beta1.Device{Spec: v1beta1.DeviceSpec{
			Protocol:   v1beta1.ProtocolConfig{ConfigData: config("slaveeID")},
			Properties: []v1beta1.DeviceProperty{{Name: "p", Visitors: &v1beta1.VisitorConfig{ConfigData: config("dataTpye")}}},
		}},
		Model: &v1beta1.DeviceModel{Spec: v1beta1.DeviceModelSpec{Properties: []v1beta1.ModelProperty{{Name: "p", Visitors: &v1beta1.VisitorConfig{ConfigData: config("Skale")}}}}},
	}
	for _, c := range [][3]string{{"", "slaveeid", "slaveeID"}, {"p", "datatpye", "dataTpye"}, {"p", "skale", "Skale"}, {"q", "skale", "skale"}} {
		if got := d.Spelling(c[0], c[1]); got != c[2] {
			t.Errorf("%v: %s", c, got)
		}
	}
	if got := (Definition{}).Spelling("p", "x"); got != "x" {
		t.Error(got)
	}
}

func TestListsAndNames(t *testing.T) {
	s := Merge(map[string]any{
		"list": []any{78, "80"}, "text": "78, 80", "bad": []any{map[string]any{}}, "holes": "1,,2", "empty": []any{},
		"map": map[string]any{"0": "off", "0x10": "on"}, "pairs": "0=off, 16=on", "twice": "0=a, 1=A", "same": "1=a, 1=b", "bool": map[string]any{"0": false}, "wrong": "a=b", "comma": map[string]any{"1": "a,b"},
	})
	r := s.Read()
	for _, name := range []string{"list", "text"} {
		if got := r.List(name); !reflect.DeepEqual(got, []string{"78", "80"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, name := range []string{"map", "pairs"} {
		if got := r.Names(name); !reflect.DeepEqual(got, map[int64]string{0: "off", 16: "on"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if r.List("absent") != nil || r.Names("absent") != nil || r.Err() != nil {
		t.Error(r.Err())
	}
	for _, name := range []string{"bad", "holes", "empty"} {
		r := s.Read()
		if r.List(name); r.Err() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	for _, name := range []string{"twice", "same", "bool", "wrong", "comma", "list"} {
		r := s.Read()
		if r.Names(name); r.Err() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
