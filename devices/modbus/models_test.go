package modbus

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

const modelsDir = "../../deploy/kubernetes/models"

// registerImage is the content of a device's registers, with the values that they are.
type registerImage struct {
	Unit      byte `json:"unit"`
	Registers []struct {
		Table  string   `json:"table"`
		Start  int      `json:"start"`
		Values []uint16 `json:"values"`
	} `json:"registers"`
	Values map[string]string `json:"values"`
	// NotAvailable are the properties whose registers have the number for "no value",
	// WriteOnly those that cannot be read.
	NotAvailable []string `json:"notAvailable"`
	WriteOnly    []string `json:"writeOnly"`
}

// TestModels reads the register image of each ready-made model through the driver, from a slave
// of another implementation: every property has the value of the image, or none where the image
// has none, and no setting is misspelt or ambiguous. The files name where the registers are from
// and how the image came about.
func TestModels(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(modelsDir, "*.yaml"))
	if err != nil || len(files) < 12 {
		t.Fatalf("%d models: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			readsModel(t, file, filepath.Join("testdata", "models", name+".yaml"))
		})
	}
}

func readsModel(t *testing.T, file, imageFile string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	model, device, ok := strings.Cut(string(text), "\n---\n")
	if !ok {
		t.Fatal("not a DeviceModel and a Device")
	}
	d, m := devicestest.Parse(t, device, model)
	text, err = os.ReadFile(imageFile)
	if err != nil {
		t.Fatal(err)
	}
	var image registerImage
	if err := yaml.UnmarshalStrict(text, &image); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(model, "\n# Registers: ") || !strings.HasPrefix(string(text), "# Image: ") {
		t.Error("the model or its image does not name its source")
	}
	s := newSlave(t)
	tables := map[string]codec.Table{"holding": codec.Holdings, "input": codec.Inputs, "coil": codec.Coils, "discrete": codec.Discretes}
	for _, r := range image.Registers {
		table, ok := tables[r.Table]
		if !ok {
			t.Fatalf("unknown table %q", r.Table)
		}
		s.set(image.Unit, table, r.Start, r.Values...)
	}
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	d.UID, d.Spec.NodeName = "uid", "n"
	d.Spec.Protocol.ConfigData.Data["ip"], d.Spec.Protocol.ConfigData.Data["port"] = host, port
	for i := range d.Spec.Properties {
		d.Spec.Properties[i].CollectCycle = 100
	}
	r := newRig(t)
	r.send(d, m)
	polltest.Eventually(t, "online", func() bool { return r.sink.state(d.Name) == "online" })
	for _, p := range m.Spec.Properties {
		want, hasValue := image.Values[p.Name]
		switch {
		case hasValue:
			polltest.Eventually(t, p.Name+" is "+want, func() bool { return r.sink.count(d.Name, p.Name) > 0 && r.sink.reported(d.Name, p.Name) != "" })
			twin := r.sink.twin(d.Name, p.Name).Reported
			if twin.Value != want || twin.Metadata["quality"] != string(devices.Good) {
				t.Errorf("%s: %s %v, want %s", p.Name, twin.Value, twin.Metadata, want)
			}
		case slices.Contains(image.NotAvailable, p.Name):
			polltest.Eventually(t, p.Name+" has no value", func() bool {
				twin := r.sink.twin(d.Name, p.Name).Reported
				return twin != nil && twin.Metadata["reason"] == devices.ReasonNotAvailable
			})
		case !slices.Contains(image.WriteOnly, p.Name):
			t.Errorf("%s is not in the image", p.Name)
		}
	}
	if len(d.Spec.Properties) != len(m.Spec.Properties) {
		t.Errorf("the Device has %d properties, the model %d", len(d.Spec.Properties), len(m.Spec.Properties))
	}
	if problems := r.sink.status(d.Name).Extensions.Data["problems"]; problems != nil {
		t.Errorf("problems: %s", pretty(problems))
	}
}
