package modbus

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	server "github.com/simonvetter/modbus"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/scan"
	"github.com/petiole-io/petiole/devices/modbus/wire"
	"github.com/petiole-io/petiole/internal/porttest"
)

func scanned(t *testing.T, config map[string]any, o scan.Options) []scan.Unit {
	t.Helper()
	units, err := Scan(t.Context(), devices.Merge(config), o)
	if err != nil {
		t.Fatal(err)
	}
	return units
}

// The registers of pymodbus end at 199; it has units 1 and 2.
func TestScanOfPymodbus(t *testing.T) {
	t.Parallel()
	addr := porttest.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	start(t, "testdata/slave.py", "tcp", port)
	line := pair(t)
	start(t, "testdata/slave.py", "rtu", line.A)
	for name, config := range map[string]map[string]any{
		"tcp": {"ip": addr}, "rtu": {"serialPort": line.B, "baudRate": "19200", "timeout": "5000", "minTimeout": "5000"},
	} {
		units := scanned(t, config, scan.Options{Units: []byte{2}, First: 150, Last: 260})
		if len(units) != 1 {
			t.Fatalf("%s: %v", name, units)
		}
		u := units[0]
		if u.ID != 2 || u.Identification["vendorName"] != "Acme Meters" || u.Incomplete != "" || len(u.SunSpec) != 0 {
			t.Errorf("%s: %s", name, u)
		}
		want := []codec.Range{{Table: codec.Holdings, Start: 150, End: 200}, {Table: codec.Inputs, Start: 150, End: 200}, {Table: codec.Coils, Start: 150, End: 200}, {Table: codec.Discretes, Start: 150, End: 200}}
		if !slices.Equal(u.Open, want) || u.Values[codec.Holdings][199] != 2199 || u.Values[codec.Coils][151] != 1 || u.Values[codec.Discretes][150] != 0 {
			t.Errorf("%s: %s", name, u)
		}
	}
}

// Libmodbus refuses function 43, is late, busy and wrong at some registers: the scan goes on.
func TestScanOfLibmodbus(t *testing.T) {
	t.Parallel()
	addr := porttest.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	start(t, "testdata/libmodbus.py", "tcp", port)
	units := scanned(t, map[string]any{"ip": addr, "timeout": 2000}, scan.Options{First: 0, Last: 127})
	if len(units) != 1 || units[0].ID != 1 || units[0].Identification != nil || units[0].Incomplete != "" {
		t.Fatal(units)
	}
	if u := units[0]; len(u.Open) != 4 || u.Open[0] != (codec.Range{Table: codec.Holdings, Start: 0, End: 128}) || u.Values[codec.Inputs][127] != 1127 {
		t.Error(u)
	}
}

// On a sparse device a scan finds the registers and writes nothing; units without a reply are
// left out; the models of a SunSpec device are followed to their end.
func TestScanOfSparseRegistersAndSunSpec(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	s.hole(codec.Holdings, 0, 10)
	s.hole(codec.Holdings, 12, 77)
	s.hole(codec.Holdings, 78, 40000)
	s.hole(codec.Inputs, 0, 65536)
	s.hole(codec.Holdings, 50000, 50010)
	s.set(1, codec.Holdings, 10, 4711, 4712)
	s.set(1, codec.Holdings, 40000, 0x5375, 0x6e53, 1, 66)
	s.set(1, codec.Holdings, 40070, 103, 50)
	s.set(1, codec.Holdings, 40122, 64001, 4)
	s.set(1, codec.Holdings, 40128, 0xffff, 0)
	s.setFail(3, server.ErrGWTargetFailedToRespond)
	units := scanned(t, map[string]any{"ip": s.addr}, scan.Options{Units: []byte{3, 1}, First: 0, Last: 80})
	if len(units) != 1 || units[0].ID != 1 {
		t.Fatal(units)
	}
	u := units[0]
	want := []codec.Range{{Table: codec.Holdings, Start: 10, End: 12}, {Table: codec.Holdings, Start: 77, End: 78}, {Table: codec.Coils, Start: 0, End: 81}, {Table: codec.Discretes, Start: 0, End: 81}}
	if !slices.Equal(u.Open, want) {
		t.Error(u)
	}
	models := []scan.SunSpecModel{{ID: 1, Address: 40002, Length: 66}, {ID: 103, Address: 40070, Length: 50}, {ID: 64001, Address: 40122, Length: 4}}
	if !slices.Equal(u.SunSpec, models) {
		t.Errorf("%+v", u.SunSpec)
	}
	checkSunSpecManifests(t, s, u)
	if n := s.writes(); n != 0 {
		t.Errorf("%d requests wrote", n)
	}
}

// checkSunSpecManifests reads the device of a scan.
func checkSunSpecManifests(t *testing.T, s *slave, u scan.Unit) {
	t.Helper()
	s.set(1, codec.Holdings, 40004, 0x4163, 0x6d65)       // Acme
	s.set(1, codec.Holdings, 40070+14, 1234, 0xffff)      // 123.4 W
	s.set(1, codec.Holdings, 40070+16, 0xffff, 0xfffe)    // no frequency
	s.set(1, codec.Holdings, 40070+24, 0x0001, 0x86a0, 1) // 1,000,000 Wh
	s.set(1, codec.Holdings, 40070+38, 4)                 // MPPT
	d, m := u.Manifests("ns", "pv-1", "", map[string]any{"ip": s.addr})
	def, _, problems := devices.Resolve(d, m)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	read := func() map[string]string {
		t.Helper()
		in, problems, err := Inspect(t.Context(), def, nil)
		if err != nil || len(problems) > 0 {
			t.Fatal(problems, err)
		}
		got := map[string]string{}
		for _, o := range in.Observations {
			got[o.Point] = o.Value.String() + " " + string(o.Quality) + o.Reason
		}
		return got
	}
	got := read()
	for name, want := range map[string]string{
		"manufacturer": "Acme good", "power": "123.4 good", "energy": "1000000 good", "operatingState": "4 good", "holding10": "4711 good", "holding77": "0 good",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if !strings.Contains(got["frequency"], "bad") {
		t.Errorf("frequency is %q", got["frequency"])
	}
	s.set(1, codec.Holdings, 40070+24, 0, 0) // an accumulator that the inverter does not have
	if got := read()["energy"]; !strings.Contains(got, "bad") {
		t.Errorf("an energy that is not implemented is %q", got)
	}
}

// A unit that stops to reply is left alone, a connection that cannot be opened is an error, and
// the end of the context ends a scan.
func TestScanEnds(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and never replies
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	units, err := Scan(t.Context(), devices.Merge(map[string]any{"ip": l.Addr().String(), "timeout": 50}), scan.Options{Units: []byte{1, 2, 3, 4}, Last: 10})
	if len(units) != 0 || err != nil {
		t.Error(units, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	units, err = Scan(ctx, devices.Merge(map[string]any{"ip": l.Addr().String(), "timeout": 60_000}), scan.Options{Last: 10})
	if len(units) != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(units, err)
	}
	units, err = Scan(t.Context(), devices.Merge(map[string]any{"ip": porttest.Addr(t)}), scan.Options{Last: 10})
	if len(units) != 0 || !errors.Is(err, wire.ErrLink) {
		t.Error(units, err)
	}
}
