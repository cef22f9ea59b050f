package dmi

import (
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi/dmitest"
)

// TestOpen: settings that cannot be sent to a mapper are problems, of the property or of the
// device.
func TestOpen(t *testing.T) {
	s := New(Config{})
	d := dmitest.Pump("a", func(d *v1beta1.Device) {
		d.Spec.Properties[1].Visitors = &v1beta1.VisitorConfig{ConfigData: &v1beta1.CustomizedValue{Data: map[string]any{"list": []any{"x"}}}}
	})
	_, problems, err := s.Open(dmitest.Resolve(d, dmitest.Model()))
	if err != nil || len(problems) != 1 || problems[0].Property != "speed" || !strings.Contains(problems[0].Message, "list") {
		t.Errorf("%v, %v", problems, err)
	}
	d = dmitest.Pump("a", func(d *v1beta1.Device) { d.Spec.Protocol.ConfigData.Data["tree"] = map[string]any{"a": "b"} })
	if _, _, err := s.Open(dmitest.Resolve(d, dmitest.Model())); err == nil || !strings.Contains(err.Error(), "tree") {
		t.Error(err)
	}
	if s.Protocols()[0] != devices.AnyProtocol {
		t.Error(s.Protocols())
	}
}
