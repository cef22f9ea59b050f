package modbus

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// policyNames returns the names that deploy/kubernetes/devices-policy.yaml has in one of its lists.
func policyNames(t *testing.T, list string) []string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/kubernetes/devices-policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policy, _, _ := strings.Cut(string(text), "\n---\n")
	var p struct {
		Spec struct {
			Variables []struct{ Name, Expression string }
		}
	}
	if err := yaml.Unmarshal([]byte(policy), &p); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range p.Spec.Variables {
		if v.Name == list {
			for _, quoted := range regexp.MustCompile(`'[a-z0-9]+'`).FindAllString(v.Expression, -1) {
				names = append(names, strings.Trim(quoted, "'"))
			}
		}
	}
	if len(names) == 0 {
		t.Fatalf("the policy has no %s", list)
	}
	return names
}

// TestPolicyKnowsTheSettings compares the names in the policy that warns at kubectl apply with those that
// the driver looks up.
func TestPolicyKnowsTheSettings(t *testing.T) {
	t.Parallel()
	both := policyNames(t, "common")
	device, property := append(policyNames(t, "deviceSettings"), both...), append(policyNames(t, "propertySettings"), both...)

	// What the driver looks up depends on what is set.
	var ofDevice, ofProperty []string
	for _, config := range []devices.Settings{
		{"ip": "127.0.0.1"},
		{"serialport": "/dev/ttyUSB0"},
		{"ip": "127.0.0.1", "mode": "TLS", "certfile": "x", "keyfile": "x"},
		{"ip": "127.0.0.1", "mode": "UDP"},
		{"ip": "127.0.0.1", "mode": "RTUOverTCP"},
	} {
		var review devices.Review
		readSettings(review.Start(config))
		ofDevice = append(ofDevice, review.Known()...)
	}
	for _, p := range []devices.Point{{Type: v1beta1.INT}, {Type: v1beta1.FLOAT}, {Type: v1beta1.STRING}, {Type: v1beta1.BOOLEAN}, {Type: v1beta1.BYTES}} {
		for _, table := range []string{"HoldingRegister", "CoilRegister"} {
			for _, kind := range []string{"", "string", "int16", "t5", "unix"} {
				s := devices.Settings{"register": table, "offset": "0", "checkregister": "1", "checkvalue": "1", "scaleregister": "2", "limit": "1"}
				if kind != "" {
					s["datatype"] = kind
				}
				var review devices.Review
				readPoint(review.Start(s), 0, p, settings{})
				ofProperty = append(ofProperty, review.Known()...)
			}
		}
	}
	for what, lists := range map[string][2][]string{"device": {ofDevice, device}, "property": {ofProperty, property}} {
		known, policy := lists[0], lists[1]
		for i := range known {
			known[i] = strings.ToLower(known[i])
		}
		for _, name := range known {
			if !slices.Contains(policy, name) {
				t.Errorf("the policy warns of a setting of a %s: %s", what, name)
			}
		}
		for _, name := range policy {
			if !slices.Contains(known, name) && !slices.Contains(ignoredSettings, name) && !common(name) {
				t.Errorf("the policy does not warn of %s, which is no setting of a %s", name, what)
			}
		}
	}
}

// common reports whether a setting belongs to devices of all protocols, so that drivers never see it.
func common(name string) bool {
	d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
	m.Spec.Protocol = "modbus"
	d.Spec.Protocol.ConfigData = &v1beta1.CustomizedValue{Data: map[string]any{name: "1"}}
	def, _, _ := devices.Resolve(d, m)
	return len(def.Config) == 0
}
