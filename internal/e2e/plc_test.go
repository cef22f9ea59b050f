package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/oracle"
)

// The holding registers of the slave that this suite uses. Input register 0 counts the
// slave's seconds.
const (
	setpointRegister = 8100 // desired through the API
	levelRegister    = 8101 // changed by the suite's own master, as a process would
)

// deviceModel is a model in KubeEdge's format.
const deviceModel = `
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: tank}
spec:
  protocol: modbus
  properties:
    - {name: setpoint, type: INT, accessMode: ReadWrite, minimum: "0", maximum: "65535"}
    - {name: level, type: INT, accessMode: ReadOnly}
    - {name: uptime, type: INT, accessMode: ReadOnly}
    - {name: broken, type: INT, accessMode: ReadOnly}
`

// tankManifest is a device in KubeEdge's format; numbers are texts, as its own samples
// have them. More properties may follow.
func tankManifest(name, node, more string) string {
	return fmt.Sprintf(`
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: %s}
spec:
  deviceModelRef: {name: tank}
  nodeName: %s
  protocol:
    protocolName: modbus
    configData: {communicateMode: TCP, ip: 127.0.0.1, port: "502", slaveID: "1"}
  properties:
    - name: setpoint
      collectCycle: 200
      reportToCloud: true
      visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: "%d", limit: "1"}}
    - name: level
      collectCycle: 200
      reportToCloud: true
      visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: "%d", limit: "1"}}
    - name: uptime
      collectCycle: 200
      visitors: {protocolName: modbus, configData: {register: InputRegister, offset: "0", limit: "1"}}
%s`, name, node, setpointRegister, levelRegister, more)
}

// apply applies manifests with kubectl, as a person does.
func apply(t *testing.T, namespace string, manifests ...string) {
	t.Helper()
	cmd := lab.Command(t.Context(), "kubectl", "apply", "-n", namespace, "-f", "-")
	cmd.Stdin = strings.NewReader(strings.Join(manifests, "\n---\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kubectl apply: %v: %s", err, out)
	}
}

func deviceStatus(ctx context.Context, namespace, name string) (*v1beta1.DeviceStatus, error) {
	u, err := lab.Dynamic.Resource(oracle.Device("devicestatuses")).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var s v1beta1.DeviceStatus
	return &s, decodeUnstructured(u, &s)
}

func decodeUnstructured(u *unstructured.Unstructured, into any) error {
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func twinOf(s *v1beta1.DeviceStatus, property string) *v1beta1.Twin {
	for i := range s.Status.Twins {
		if s.Status.Twins[i].PropertyName == property {
			return &s.Status.Twins[i]
		}
	}
	return nil
}

// reports returns nil when the DeviceStatus shows the property's reported value.
func reports(namespace, name, property, want string) condition {
	return func(ctx context.Context) error {
		s, err := deviceStatus(ctx, namespace, name)
		if err != nil {
			return err
		}
		twin := twinOf(s, property)
		if twin == nil || twin.Reported == nil || twin.Reported.Value != want {
			return fmt.Errorf("device %s: state %q, %s is %s, want %q", name, s.Status.State, property, show(twin), want)
		}
		return nil
	}
}

// observed returns nil when the DeviceStatus says that the desired value was applied.
func observed(namespace, name, property, want string) condition {
	return func(ctx context.Context) error {
		s, err := deviceStatus(ctx, namespace, name)
		if err != nil {
			return err
		}
		twin := twinOf(s, property)
		if twin == nil || twin.ObservedDesired == nil || twin.ObservedDesired.Value != want || twin.ObservedDesired.Metadata["ack"] != "applied" {
			return fmt.Errorf("device %s: state %q, %s is %s, want %q applied", name, s.Status.State, property, show(twin), want)
		}
		return nil
	}
}

// show formats a twin.
func show(twin *v1beta1.Twin) string {
	data, err := json.Marshal(twin)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// desire sets the desired value of the device's first property, setpoint.
func desire(t *testing.T, namespace, name, value string) {
	t.Helper()
	patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/spec/properties/0/desired", "value": map[string]string{"value": value}}})
	must(t, err)
	_, err = lab.Dynamic.Resource(oracle.Device("devices")).Namespace(namespace).Patch(t.Context(), name, types.JSONPatchType, patch, metav1.PatchOptions{})
	must(t, err)
}

// registerIs returns nil when the suite's own master reads the value.
func registerIs(site *rig.Site, register, want uint16) condition {
	return func(ctx context.Context) error {
		has, err := site.Slave().Read(ctx, register)
		if err == nil && has != want {
			err = fmt.Errorf("register %d is %d, want %d", register, has, want)
		}
		return err
	}
}

// newTank creates the model and one device in a namespace of its own, and returns when
// the device is online.
func newTank(t *testing.T, site *rig.Site, theme string) (namespace string) {
	t.Helper()
	ns := newNamespace(t, theme)
	must(t, site.Slave().Write(t.Context(), levelRegister, 7))
	apply(t, ns, deviceModel, tankManifest("tank", site.Node, ""))
	took := eventually(t, 30*time.Second, "the device's level is reported", reports(ns, "tank", "level", "7"))
	t.Logf("MEASURED Device and DeviceModel created → reported value in DeviceStatus: %s", took.Round(time.Millisecond))
	return ns
}

// deviceIs returns nil when kubectl would show the state for the device.
func deviceIs(namespace, name, state string) condition {
	return func(ctx context.Context) error {
		u, err := lab.Dynamic.Resource(oracle.Device("devices")).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		has, _, err := unstructured.NestedString(u.Object, "status", "state")
		if err == nil && has != state {
			err = fmt.Errorf("device %s is %q, want %q", name, has, state)
		}
		return err
	}
}
