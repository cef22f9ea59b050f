package modbus

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

// thermometer is a manifest in KubeEdge's words, of a device at addr.
func thermometer(t *testing.T, addr string) (*v1beta1.Device, *v1beta1.DeviceModel) {
	t.Helper()
	b, err := os.ReadFile("testdata/thermometer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
	for i, doc := range bytes.Split(b, []byte("\n---\n")) {
		if err := yaml.UnmarshalStrict(doc, []any{m, d}[i]); err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	d.UID = "uid"
	d.Spec.Protocol.ConfigData.Data["ip"], d.Spec.Protocol.ConfigData.Data["port"] = host, port
	return d, m
}

// A manifest as KubeEdge's samples are means here what it means there: a float in one
// register is an unsigned number times scale, read and written.
func TestKubeEdgeManifest(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 215)
	r := newRig(t)
	d, m := thermometer(t, s.addr)
	r.send(d, m)
	polltest.Eventually(t, "21.5 degrees", func() bool { return r.sink.reported("thermometer", "degrees") == "21.5" })
	polltest.Eventually(t, "power", func() bool { return r.sink.ack("thermometer", "power") == "applied" })
	if got := s.get(1, codec.Coils, 0); got != 1 {
		t.Errorf("the coil is %d", got)
	}
	if q := r.sink.twin("thermometer", "degrees").Reported.Metadata["quality"]; q != "good" {
		t.Error(q)
	}
	r.desire(d, "degrees", "42.5")
	polltest.Eventually(t, "42.5 degrees", func() bool {
		return r.sink.ack("thermometer", "degrees") == "applied" && r.sink.reported("thermometer", "degrees") == "42.5"
	})
	if got := s.get(1, codec.Holdings, 0); got != 425 {
		t.Errorf("42.5 degrees were written as %d", got)
	}
	s.set(1, codec.Holdings, 0, 0xfff6)
	polltest.Eventually(t, "unsigned", func() bool { return r.sink.reported("thermometer", "degrees") == "6552.6" })

	// Its settings are all known, and the plan says what could be meant otherwise.
	def, _, problems := devices.Resolve(d, m)
	if len(problems) > 0 {
		t.Error(problems)
	}
	_, found := Describe(def)
	if len(found) != 1 || found[0].Reason != devices.ReasonAmbiguous || !found[0].Warning || !strings.Contains(found[0].Message, "float16") {
		t.Errorf("%+v", found)
	}
}
