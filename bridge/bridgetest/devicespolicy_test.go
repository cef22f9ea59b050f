package bridgetest

import (
	"context"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const devicesPolicy = "petiole-devices"

// TestDevicesPolicy: kubectl apply warns of mistakes in Devices and DeviceModels, and refuses none.
func TestDevicesPolicy(t *testing.T) {
	runAll(t, []sharing{{"Warns", devicesPolicyWarns}})
}

// heard collects the warnings of an API server.
type heard struct {
	mu   sync.Mutex
	text []string
}

func (h *heard) HandleWarningHeader(_ int, _, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, text)
}

// take returns the warnings since the last call.
func (h *heard) take() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := strings.Join(h.text, "\n")
	h.text = nil
	return all
}

func devicesPolicyWarns(t *testing.T, a *api) {
	ctx := context.Background()
	policies, bindings := a.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies(), a.admin.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	t.Cleanup(func() {
		if err := bindings.Delete(ctx, devicesPolicy, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := policies.Delete(ctx, devicesPolicy, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	a.applyFile(t, "../../deploy/kubernetes/devices-policy.yaml")
	warnings := &heard{}
	config := rest.CopyConfig(a.config)
	config.WarningHandler = warnings
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	try := func(kind string, spec map[string]any) string {
		t.Helper()
		resource := map[string]string{"Device": "devices", "DeviceModel": "devicemodels"}[kind]
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "devices.kubeedge.io/v1beta1", "kind": kind, "metadata": map[string]any{"name": "x", "namespace": "default"}, "spec": spec,
		}}
		warnings.take()
		_, err := client.Resource(schema.GroupVersionResource{Group: "devices.kubeedge.io", Version: "v1beta1", Resource: resource}).Namespace("default").
			Create(ctx, o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Fatal(err)
		}
		return warnings.take()
	}
	device := func(protocol string, config, visitor, push map[string]any) map[string]any {
		p := map[string]any{"name": "temperature"}
		if visitor != nil {
			p["visitors"] = map[string]any{"protocolName": "modbus", "configData": visitor}
		}
		if push != nil {
			p["pushMethod"] = push
		}
		return map[string]any{"nodeName": "n", "protocol": map[string]any{"protocolName": protocol, "configData": config}, "properties": []any{p}}
	}
	ip := map[string]any{"ip": "10.0.0.1"}
	misspelt := device("modbus", map[string]any{"ip": "10.0.0.1", "slaveeID": int64(3)}, nil, nil)
	eventually(t, "policy in force", func() bool {
		return strings.Contains(try("Device", misspelt), "slaveeID: not a setting of a Modbus device")
	})

	influx := map[string]any{"dbMethod": map[string]any{"influxdb2": map[string]any{"influxdb2ClientConfig": map[string]any{"url": "http://x"}}}}
	for name, c := range map[string]struct {
		kind string
		spec map[string]any
		want string // "": no warning
	}{
		"property misspelt": {"Device", device("modbus", ip, map[string]any{"register": "HoldingRegister", "Offset": int64(0), "scaleRegisterr": int64(1)}, nil), "property temperature: scaleRegisterr: not a setting"},
		"no integer":        {"Device", device("modbus", ip, map[string]any{"register": "HoldingRegister", "offset": "four"}, nil), "property temperature: offset four: not an integer"},
		"fraction":          {"Device", device("modbus", ip, map[string]any{"register": "HoldingRegister", "offset": 1.5}, nil), "offset 1.5: not an integer"},
		"two places":        {"Device", device("modbus", ip, map[string]any{"register": "HoldingRegister", "offset": int64(1), "registers": []any{int64(4), int64(5)}}, nil), "registers cannot be used together with offset"},
		"half a check":      {"Device", device("modbus", ip, map[string]any{"register": "HoldingRegister", "offset": int64(1), "checkRegister": int64(4)}, nil), "checkRegister and checkValue belong together"},
		"database":          {"Device", device("modbus", ip, nil, influx), "property temperature: dbMethod and otel of Modbus devices are not carried out. All samples are in the stream TELEMETRY_<site>"},
		"telemetry":         {"Device", device("Modbus", ip, nil, map[string]any{"otel": map[string]any{"endpointURL": "http://x"}}), "cmd/historian"},
		"model": {"DeviceModel", map[string]any{"protocol": "modbus", "properties": []any{map[string]any{
			"name": "t", "type": "INT", "accessMode": "ReadOnly", "visitors": map[string]any{"protocolName": "modbus", "configData": map[string]any{"mask": int64(3)}},
		}}}, "property t: mask: not a setting"},
		"in any case, as strings":    {"Device", device("Modbus", map[string]any{"SlaveID": "0x03", "IP": "10.0.0.1"}, map[string]any{"Register": "CoilRegister", "Offset": "2", "isSwap": "true", "limit": ""}, nil), ""},
		"push that is carried out":   {"Device", device("modbus", ip, nil, map[string]any{"mqtt": map[string]any{"address": "tcp://x:1883", "topic": "t"}}), ""},
		"protocol of the model":      {"Device", device("", map[string]any{"url": "opc.tcp://x"}, nil, influx), ""},
		"another protocol":           {"Device", device("opcua", map[string]any{"url": "opc.tcp://x"}, nil, influx), ""},
		"model of another protocol":  {"DeviceModel", map[string]any{"protocol": "opcua", "protocolConfigData": map[string]any{"url": "x"}}, ""},
		"model and nothing that has": {"DeviceModel", map[string]any{}, ""},
	} {
		got := try(c.kind, c.spec)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: warnings %q, want %q", name, got, c.want)
		}
	}
}
