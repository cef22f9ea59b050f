package devices

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
)

const modelYAML = `
metadata: {namespace: ns, name: m}
spec:
  protocol: modbus
  protocolConfigData: {port: 502, Timeout: 500, ip: 10.0.0.1}
  properties:
  - {name: a, type: INT, accessMode: ReadWrite, minimum: "1", maximum: "2.5", unit: K, visitors: {protocolName: modbus, configData: {register: HoldingRegister, OFFSET: 1, scale: 0.10000000149}}}
  - {name: b, type: FLOAT, accessMode: ReadOnly}
  - {name: c, type: STREAM}
  - {name: d, type: INT, minimum: low}
`

const deviceYAML = `
metadata: {namespace: ns, name: d, uid: u}
spec:
  deviceModelRef: {name: m}
  nodeName: "n"
  protocol: {protocolName: Modbus, configData: {IP: 10.0.0.2}}
  properties:
  - {name: a, visitors: {protocolName: modbus, configData: {Offset: "7"}}, collectCycle: 250, reportToCloud: true, desired: {value: "2", metadata: {x: y}}}
  - {name: b, desired: {value: ""}}
  - {name: a}
  - {name: c}
  - {name: d}
  - {name: missing, desired: {value: "3"}}
  - {name: ""}
`

func TestResolveMergesModelAndDevice(t *testing.T) {
	d, m := devicestest.Parse(t, deviceYAML, modelYAML)
	def, desired, problems := Resolve(d, m)
	if def.Protocol != "Modbus" || def.Device != (Ref{"ns", "d", "u"}) || len(def.Points) != 2 {
		t.Fatalf("%+v", def)
	}
	r := def.Config.Read()
	if r.Text("", "ip") != "10.0.0.2" || r.Int(0, 0, 1000, "port") != 502 || r.Int(0, 0, 1000, "timeout") != 500 || r.Err() != nil {
		t.Errorf("config: %v %v", def.Config, r.Err())
	}
	a := def.Points[0]
	v := a.Visitor.Read()
	if v.Text("", "register") != "HoldingRegister" || v.Int(0, 0, 9, "offset") != 7 || v.Text("", "scale") != "0.10000000149" || v.Err() != nil {
		t.Errorf("visitor: %v %v", a.Visitor, v.Err())
	}
	if a.Cycle != 250*time.Millisecond || !a.Report || !a.Writable || a.Unit != "K" || a.Maximum != "2.5" {
		t.Errorf("%+v", a)
	}
	if b := def.Points[1]; b.Cycle != time.Second || b.Report || b.Writable {
		t.Errorf("%+v", b)
	}
	if len(desired) != 2 || desired[0].Property != "a" || desired[0].Value != "2" || desired[1].Property != "missing" {
		t.Errorf("%+v", desired)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.Property+" "+p.Reason)
	}
	want := []string{"a InvalidProperty", "c StreamIsNotRead", "d InvalidProperty", "missing PropertyNotInModel", "properties[6] PropertyNotInModel"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", problems)
	}
	again, _, _ := Resolve(d.DeepCopy(), m.DeepCopy())
	if def.Digest() != again.Digest() {
		t.Error("resolving twice gives two definitions")
	}
}

func TestResolveTellsWhatConcernsTheDevice(t *testing.T) {
	d, m := devicestest.Parse(t, deviceYAML, modelYAML)
	if _, _, p := Resolve(d, nil); len(p) != 1 || p[0].Reason != ReasonWaitingForModel || !strings.Contains(p[0].Message, `"m"`) {
		t.Error(p)
	}
	d.Spec.Protocol.ProtocolName, m.Spec.Protocol = "", ""
	if _, _, p := Resolve(d, m); p[0].Reason != ReasonUnknownProtocol || p[0].Property != "" {
		t.Error(p)
	}
	d.Spec.Properties[0].CollectCycle = 10_000_000_000 // nanoseconds, most likely
	_, _, p := Resolve(d, m)
	if !hasReason(p, ReasonSuspiciousPeriod) {
		t.Error(p)
	}
	d.Spec.Properties[0].CollectCycle = 1<<63 - 1
	if def, _, _ := Resolve(d, m); def.Points[0].Cycle <= 0 {
		t.Error(def.Points[0].Cycle)
	}
	if _, _, p := Resolve(&v1beta1.Device{}, &v1beta1.DeviceModel{}); len(p) != 1 {
		t.Error(p)
	}
}

func hasReason(problems []Problem, reason string) bool {
	for _, p := range problems {
		if p.Reason == reason {
			return true
		}
	}
	return false
}

func TestSettingsAcceptWhatManifestsHold(t *testing.T) {
	s := Merge(map[string]any{"SlaveID": "0x10", "Rate": json.Number("2.0"), "On": "Yes", "f": float32(0.5), "list": []any{1}, "empty": " ", "big": "1e400", "name": 7})
	var review Review
	r := review.Start(s)
	if r.Int(0, 0, 255, "slaveid", "deviceID") != 16 || r.Int(0, 0, 9, "rate") != 2 || !r.Bool(false, "on") || r.Float(0, "F") != 0.5 ||
		r.Text("def", "empty") != "def" || r.Text("", "name") != "7" || r.Err() != nil {
		t.Fatal(r.Err())
	}
	if u := review.Unread(); !reflect.DeepEqual(u, []string{"big", "list"}) {
		t.Error(u)
	}
	r.Int(0, 0, 9, "slaveID")
	r.Float(0, "big")
	r.Text("", "list")
	r.Bool(false, "name")
	r.Choice("", []string{"a", "b"}, "name")
	if err := r.Err(); err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("every invalid setting must be reported: %v", err)
	}
}
