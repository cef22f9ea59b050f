package slave

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/simonvetter/modbus"

	"github.com/petiole-io/petiole/internal/polltest"
)

func TestEveryTableIsServedToItsLastAddress(t *testing.T) {
	m, _ := start(t, filepath.Join(t.TempDir(), "writes.jsonl"))
	if v, err := m.ReadRegisters(0, 3, modbus.INPUT_REGISTER); err != nil || v[0] > 60 || v[1] != 215 || v[2] != 0 {
		t.Errorf("input registers 0–2: %v, %v", v, err)
	}
	if v, err := m.ReadDiscreteInputs(9998, 2); err != nil || v[0] || !v[1] {
		t.Errorf("discrete inputs 9998–9999: %v, %v", v, err)
	}
	if v, err := m.ReadRegister(9999, modbus.HOLDING_REGISTER); err != nil || v != 0 {
		t.Errorf("holding register 9999: %v, %v", v, err)
	}
	if v, err := m.ReadCoil(9999); err != nil || v {
		t.Errorf("coil 9999: %v, %v", v, err)
	}
	for name, beyond := range map[string]func() error{
		"input":    func() error { _, err := m.ReadRegisters(9999, 2, modbus.INPUT_REGISTER); return err },
		"holding":  func() error { return m.WriteRegisters(9999, []uint16{1, 2}) },
		"coils":    func() error { return m.WriteCoil(10000, true) },
		"discrete": func() error { _, err := m.ReadDiscreteInputs(65535, 1); return err },
	} {
		if err := beyond(); !errors.Is(err, modbus.ErrIllegalDataAddress) {
			t.Errorf("%s beyond 9999: %v", name, err)
		}
	}
	if v, err := m.ReadRegister(9999, modbus.HOLDING_REGISTER); err != nil || v != 0 {
		t.Errorf("holding register 9999 after a refused write: %v, %v", v, err)
	}
}

func TestEachWriteIsRecordedAndKeptForEveryUnit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "writes.jsonl")
	m, _ := start(t, path)
	for _, err := range []error{m.WriteRegister(7, 425), m.WriteRegisters(20, []uint16{1, 65535}), m.WriteCoil(3, true), m.WriteCoils(8, []bool{false, true})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(data)) {
		var w Write
		if err := json.Unmarshal([]byte(line), &w); err != nil {
			t.Fatal(err)
		}
		if age := time.Since(w.Time); age < 0 || age > time.Minute {
			t.Errorf("%s is %v old", line, age)
		}
		w.Time = time.Time{}
		short, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(short))
	}
	const zero = `{"time":"0001-01-01T00:00:00Z",`
	want := []string{
		zero + `"table":"holding","address":7,"values":[425]}`, zero + `"table":"holding","address":20,"values":[1,65535]}`,
		zero + `"table":"coils","address":3,"values":[1]}`, zero + `"table":"coils","address":8,"values":[0,1]}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := m.SetUnitId(247); err != nil {
		t.Fatal(err)
	}
	if v, err := m.ReadRegisters(20, 2, modbus.HOLDING_REGISTER); err != nil || v[0] != 1 || v[1] != 65535 {
		t.Errorf("holding registers 20–21 of unit 247: %v, %v", v, err)
	}
}

// A write that the log does not hold would be a write that no test can see.
func TestWriteThatCannotBeRecordedIsRefused(t *testing.T) {
	m, _ := start(t, "/dev/full")
	if err := m.WriteRegister(7, 425); !errors.Is(err, modbus.ErrServerDeviceFailure) {
		t.Fatalf("write: %v", err)
	}
	if v, err := m.ReadRegister(7, modbus.HOLDING_REGISTER); err != nil || v != 0 {
		t.Errorf("holding register 7: %v, %v", v, err)
	}
}

func TestTakenAddressIsAnError(t *testing.T) {
	_, address := start(t, filepath.Join(t.TempDir(), "writes.jsonl"))
	if err := Run(t.Context(), address, filepath.Join(t.TempDir(), "other.jsonl")); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("error %v", err)
	}
}

// start returns a master of a slave that runs until the test ends.
func start(t *testing.T, writeLog string) (*modbus.ModbusClient, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, address, writeLog) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	m, err := modbus.NewClient(&modbus.ClientConfiguration{URL: "tcp://" + address, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	polltest.NoError(t, "the slave accepts a connection", func(context.Context) error { return m.Open() })
	t.Cleanup(func() { _ = m.Close() })
	return m, address
}
