package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices/modbus/modbustest"
)

const examples = "../../deploy/kubernetes/examples/devices/"

func device(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"device"}, args...), strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func TestDevicePlanOfTheExamples(t *testing.T) {
	code, out, errs := device(t, "plan", "-f", examples+"boiler.yaml", "-f", examples+"boiler-serial.yaml", "-f", examples+"boiler-model.yaml")
	if code != 0 || errs != "" {
		t.Fatal(code, errs)
	}
	for _, want := range []string{
		"LINK tcp://127.0.0.1:1502", "LINK rtu:///dev/serial/by-id/usb-adapter-port0", "utilisation",
		"default/boiler-1.temperature default/boiler-1.pressure", "InputRegister",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	code, out, _ = device(t, "plan", "-o", "json", "-f", examples+"boiler.yaml", "-f", examples+"boiler-model.yaml")
	var p planOutput
	if err := json.Unmarshal([]byte(out), &p); code != 0 || err != nil || len(p.Links) != 1 || len(p.Links[0].Requests) == 0 || p.Links[0].Requests[0].Function == 0 {
		t.Fatal(code, err, out)
	}
}

const manifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: m}
spec:
  protocol: modbus
  properties:
    - {name: a, type: INT, accessMode: ReadOnly}
    - {name: b, type: INT, accessMode: ReadOnly}
    - {name: c, type: BOOLEAN, accessMode: ReadOnly}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: d}
spec:
  deviceModelRef: {name: m}
  protocol: {protocolName: modbus, configData: {ip: %s, port: %s, slaveID: 3, retires: 1}}
  properties:
    - {name: a, visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: 7}}}
    - {name: b, visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: %s}}}
    - {name: c, visitors: {protocolName: modbus, configData: {register: CoilRegister, offset: 5}}}
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDeviceProblemsAreNamed(t *testing.T) {
	for _, c := range []struct {
		text, errs string
		code       int
	}{
		{fmt.Sprintf(manifest, "10.0.0.1", "502", "9"), "warning: default/d: UnknownSetting: retires", 0},
		{fmt.Sprintf(manifest, "10.0.0.1", "502", "70000"), `problem: default/d property b: InvalidProperty: offset "70000" is not within 0 and 65535`, 1},
		{fmt.Sprintf(manifest, "10.0.0.1", "99999", "9"), `problem: default/d: InvalidProtocolConfig: protocol config: port "99999" is not within 1 and 65535`, 1},
		{strings.Replace(fmt.Sprintf(manifest, "10.0.0.1", "502", "9"), "deviceModelRef: {name: m}", "deviceModelRef: {name: gone}", 1), `deviceModelRef.name "gone"`, 1},
		{strings.Replace(fmt.Sprintf(manifest, "10.0.0.1", "502", "9"), "  properties:\n    - {name: a, visitors", "  propertys: []\n  properties:\n    - {name: a, visitors", 1), `unknown field "propertys"`, 1},
		{fmt.Sprintf(manifest, "10.0.0.1", "502", "9") + "---" + fmt.Sprintf(manifest, "10.0.0.1", "502", "9"), "DeviceModel default/m appears twice", 1},
		{"kind: [", "document 1", 1},
		{"", "no Modbus device", 1},
	} {
		code, _, errs := device(t, "plan", "-f", write(t, c.text))
		if code != c.code || !strings.Contains(errs, c.errs) {
			t.Errorf("exit code %d, %q; expected %d, %q", code, errs, c.code, c.errs)
		}
	}
	for _, args := range [][]string{{}, {"draw"}, {"plan"}, {"plan", "-f", "x", "-o", "yaml"}, {"plan", "-x"}, {"plan", "-f", "x", "y"}} {
		if code, _, errs := device(t, args...); code != 2 || !strings.Contains(errs, "See 'leaf device") {
			t.Errorf("%v: %d", args, code)
		}
	}
	if code, _, errs := device(t, "plan", "-f", "/nowhere.yaml"); code != 1 || !strings.Contains(errs, "/nowhere.yaml") {
		t.Error(code, errs)
	}
}

func TestDeviceReadShowsTheLiveDevice(t *testing.T) {
	s, err := modbustest.NewSlave(modbustest.Config{Illegal: func(_ byte, at uint16) bool { return at == 9 }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, fmt.Sprintf(manifest, host, port, "9"))
	code, out, errs := device(t, "read", "-f", path, "--frames")
	if code != 1 { // one property cannot be read
		t.Fatal(code, errs)
	}
	for _, want := range []string{"DEVICE default/d", "unit 3", "IllegalAddress", "the device refuses: holding:9", "good", " > "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	code, out, _ = device(t, "read", "-o", "json", "-f", path)
	var all []struct {
		Observations []struct {
			Point     string
			Value     any
			Registers []uint16
		}
	}
	if err := json.Unmarshal([]byte(out), &all); code != 1 || err != nil || len(all) != 1 || len(all[0].Observations) != 3 {
		t.Fatal(code, err, out)
	}
	a, c := all[0].Observations[0], all[0].Observations[2]
	if age := s.Count() - modbustest.WordCount(3, 7, a.Registers[0]); age > 20 || a.Value != float64(a.Registers[0]) || c.Value != true {
		t.Fatalf("%+v", all)
	}
}
