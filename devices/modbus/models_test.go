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
	"github.com/petiole-io/petiole/devices/api/v1beta1"
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

var registerTables = map[string]codec.Table{"holding": codec.Holdings, "input": codec.Inputs, "coil": codec.Coils, "discrete": codec.Discretes}

// TestModels reads the computed register image of each ready-made model through the driver, from
// a slave of another implementation: every property has the value of the image, or none where the
// image has none, and no setting is misspelt or ambiguous. The files name where the registers are
// from.
func TestModels(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(modelsDir, "*.yaml"))
	if err != nil || len(files) < 13 {
		t.Fatalf("%d models: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := readImage(t, filepath.Join("testdata", "models", name+".yaml"), "# Image: ")
			d, m := readModel(t, file, image.Unit)
			for _, p := range m.Spec.Properties {
				if _, ok := image.Values[p.Name]; !ok && !slices.Contains(image.NotAvailable, p.Name) && !slices.Contains(image.WriteOnly, p.Name) {
					t.Errorf("%s is not in the image", p.Name)
				}
			}
			if len(d.Spec.Properties) != len(m.Spec.Properties) {
				t.Errorf("the Device has %d properties, the model %d", len(d.Spec.Properties), len(m.Spec.Properties))
			}
			readsImage(t, newSlave(t), image, d, m)
		})
	}
}

// TestModelsAtRecordedDevices reads what people recorded at devices through the models: every
// property whose registers were recorded has the value that the person or another program read.
// Registers that were not recorded do not exist for the slave: they have no value.
func TestModelsAtRecordedDevices(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "models", "recorded", "*.yaml"))
	if err != nil || len(files) < 21 {
		t.Fatalf("%d recorded images: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := readImage(t, file, "# Recorded: ")
			model, _, _ := strings.Cut(name, ".")
			d, m := readModel(t, filepath.Join(modelsDir, model+".yaml"), image.Unit)
			s := newSlave(t)
			s.onlyRecorded(image)
			r := readsImage(t, s, image, d, m)
			for _, p := range m.Spec.Properties {
				if _, ok := image.Values[p.Name]; ok || slices.Contains(image.NotAvailable, p.Name) {
					continue
				}
				if twin := r.sink.twin(d.Name, p.Name).Reported; twin != nil && twin.Metadata["quality"] == string(devices.Good) {
					t.Errorf("%s: %s %v, but its registers were not recorded", p.Name, twin.Value, twin.Metadata)
				}
			}
		})
	}
}

// onlyRecorded makes all registers but those of the image illegal addresses.
func (s *slave) onlyRecorded(image registerImage) {
	next := map[codec.Table]int{}
	for _, r := range image.Registers { // in the order of the addresses
		table := registerTables[r.Table]
		s.hole(table, next[table], r.Start)
		next[table] = r.Start + len(r.Values)
	}
	for _, table := range registerTables {
		s.hole(table, next[table], 1<<16)
	}
}

func readImage(t *testing.T, file, header string) registerImage {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var image registerImage
	if err := yaml.UnmarshalStrict(text, &image); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), header) || len(image.Values) == 0 {
		t.Error("the image does not say how it came about, or has no values")
	}
	return image
}

// readModel returns the Device and the DeviceModel of a file.
func readModel(t *testing.T, file string, unit byte) (*v1beta1.Device, *v1beta1.DeviceModel) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	model, device, ok := strings.Cut(string(text), "\n---\n")
	if !ok || !strings.Contains(model, "\n# Registers: ") {
		t.Fatal("not a DeviceModel that names its source, and a Device")
	}
	d, m := devicestest.Parse(t, device, model)
	d.UID, d.Spec.NodeName = "uid", "n"
	d.Spec.Protocol.ConfigData.Data["slaveID"] = int64(unit)
	for i := range d.Spec.Properties {
		d.Spec.Properties[i].CollectCycle = 100
	}
	return d, m
}

// readsImage runs the driver until every value of the image is there.
func readsImage(t *testing.T, s *slave, image registerImage, d *v1beta1.Device, m *v1beta1.DeviceModel) *rig {
	t.Helper()
	for _, r := range image.Registers {
		table, ok := registerTables[r.Table]
		if !ok {
			t.Fatalf("unknown table %q", r.Table)
		}
		s.set(image.Unit, table, r.Start, r.Values...)
	}
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	d.Spec.Protocol.ConfigData.Data["ip"], d.Spec.Protocol.ConfigData.Data["port"] = host, port
	r := newRig(t)
	r.send(d, m)
	for name, want := range image.Values {
		polltest.Eventually(t, name+" is "+want, func() bool { return r.sink.count(d.Name, name) > 0 && r.sink.reported(d.Name, name) != "" })
		twin := r.sink.twin(d.Name, name).Reported
		if twin.Value != want || twin.Metadata["quality"] != string(devices.Good) {
			t.Errorf("%s: %s %v, want %s", name, twin.Value, twin.Metadata, want)
		}
	}
	for _, name := range image.NotAvailable {
		polltest.Eventually(t, name+" has no value", func() bool {
			twin := r.sink.twin(d.Name, name).Reported
			return twin != nil && twin.Metadata["reason"] == devices.ReasonNotAvailable
		})
	}
	if problems := r.sink.status(d.Name).Extensions.Data["problems"]; problems != nil {
		t.Errorf("problems: %s", pretty(problems))
	}
	return r
}
