package modbus

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/modbustest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// These tests run against other people's programs, of the Debian packages
// python3-pymodbus, mbpoll and libmodbus5, and fail without them.
const python = "/usr/bin/python3" // Debian's, whatever else is in the path

func TestInteropPymodbusTCP(t *testing.T) {
	t.Parallel()
	addr := porttest.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	start(t, "testdata/slave.py", "tcp", port)
	p := newProxy(t, addr)
	n := functions(p)
	interop(t, []int{1, 2}, func(unit int) map[string]any { return map[string]any{"ip": p.addr, "port": nil, "slaveID": unit} })
	if n[22].Load() != 6 { // of two units: a desired value, and a command twice
		t.Errorf("%d bits were written with function 22", n[22].Load())
	}
	// Another master sees what we have written.
	out, err := exec.Command("mbpoll", "-m", "tcp", "-p", port, "-a", "1", "-t", "4", "-0", "-r", "20", "-c", "1", "-1", "127.0.0.1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "4321") {
		t.Fatalf("mbpoll (Debian package mbpoll): %v\n%s", err, out)
	}
	out, err = exec.Command("mbpoll", "-m", "tcp", "-p", port, "-a", "1", "-t", "4", "-0", "-r", "50", "-c", "1", "-1", "127.0.0.1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\t425") {
		t.Fatalf("42.5 in tenths: %v\n%s", err, out)
	}
}

func TestInteropPymodbusRTU(t *testing.T) {
	t.Parallel()
	p := pair(t)
	start(t, "testdata/slave.py", "rtu", p.A)
	interop(t, []int{1, 2}, func(unit int) map[string]any {
		return map[string]any{"serialPort": p.B, "baudRate": 19200, "slaveID": unit, "timeout": 3000, "minTimeout": 3000}
	})
}

func TestInteropLibmodbusTCP(t *testing.T) {
	t.Parallel()
	addr := porttest.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	start(t, "testdata/libmodbus.py", "tcp", port)
	config := map[string]any{"ip": "127.0.0.1", "port": port, "slaveID": 1}
	interop(t, []int{1}, func(int) map[string]any { return config })
	misbehaviour(t, map[string]any{"ip": "127.0.0.1", "port": port, "slaveID": 1, "timeout": 150, "retries": 0}, 1)
}

func TestInteropLibmodbusRTU(t *testing.T) {
	t.Parallel()
	p := pair(t)
	start(t, "testdata/libmodbus.py", "rtu", p.A, "0.5")
	config := map[string]any{"serialPort": p.B, "baudRate": 19200, "slaveID": 1, "timeout": 500}
	interop(t, []int{1}, func(int) map[string]any { return config })
	// Without numbers a late answer can be told from others only when it comes within
	// another timeout: after 500 ms it does, also on a busy machine.
	misbehaviour(t, map[string]any{"serialPort": p.B, "baudRate": 19200, "slaveID": 1, "timeout": 400, "minTimeout": 400, "retries": 0}, 5)
}

func pair(t *testing.T) *modbustest.Pair {
	t.Helper()
	p, err := modbustest.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func interop(t *testing.T, units []int, config func(int) map[string]any) {
	r := newRig(t)
	defer r.stop()
	names := map[int]string{1: "one", 2: "two"}
	for _, unit := range units {
		r.apply(names[unit], "127.0.0.1:1", config(unit),
			prop{name: "hr", typ: "INT", visitor: holding(7), cycle: 50}, prop{name: "ir", typ: "INT", ro: true, visitor: visitor("InputRegister", 140, nil), cycle: 50},
			prop{name: "co", typ: "BOOLEAN", visitor: visitor("CoilRegister", 3, nil), cycle: 50}, prop{name: "di", typ: "BOOLEAN", ro: true, visitor: visitor("DiscreteInputRegister", 4, nil), cycle: 50},
			prop{name: "beyond", typ: "INT", ro: true, visitor: holding(199), cycle: 50}, prop{name: "outside", typ: "INT", ro: true, visitor: holding(201), cycle: 50},
			prop{name: "set", typ: "INT", visitor: holding(20), cycle: 50, desired: "4321"}, prop{name: "set32", typ: "FLOAT", visitor: holding(30), cycle: 50, desired: "-2.5"},
			prop{name: "setco", typ: "BOOLEAN", visitor: visitor("CoilRegister", 10, nil), cycle: 50, desired: "true"},
			prop{name: "bit", typ: "BOOLEAN", visitor: holding(40, "bit", 15), cycle: 50, desired: "true"},
			// As KubeEdge's manifests say it: a number of 16 bits in tenths.
			prop{name: "tenths", typ: "FLOAT", ro: true, visitor: holding(51, "dataType", "float", "limit", 1, "scale", 0.1), cycle: 50},
			prop{name: "settenths", typ: "FLOAT", visitor: holding(50, "dataType", "float", "limit", 1, "scale", 0.1), cycle: 50, desired: "42.5"})
	}
	for _, unit := range units {
		name, base := names[unit], int64(1000*unit)
		for property, want := range map[string]string{
			"hr": devices.Int(base + 7).String(), "ir": devices.Int(base + 140).String(), "co": "true", "di": "false",
			"beyond": devices.Int(base + 199).String(), "set": "4321", "set32": "-2.5", "setco": "true", "bit": "true",
			"tenths": devices.Float(float64(base+51) / 10).String(), "settenths": "42.5",
		} {
			polltest.Eventually(t, name+" "+property, func() bool { return r.sink.reported(name, property) == want })
		}
		polltest.Eventually(t, "the refused point", func() bool {
			tw := r.sink.twin(name, "outside").Reported
			return tw != nil && tw.Metadata["reason"] == "IllegalAddress"
		})
		for _, p := range []string{"set", "set32", "setco", "bit", "settenths"} {
			polltest.Eventually(t, p, func() bool { return r.sink.ack(name, p) == "applied" })
		}
		for _, id := range []string{"first", "again"} { // commands are carried out each time
			for property, value := range map[string]string{"set": "4321", "set32": "-2.5", "setco": "true", "bit": "true"} {
				if got := r.command(name, property+id, property, value); got.Ack != devices.Applied || !got.Written || got.Before != value || got.After != value {
					t.Errorf("%s %s: %+v", name, property, got)
				}
			}
		}
	}
}

// misbehaviour is what libmodbus does at some addresses: none of it becomes a value,
// and nothing else suffers. While it is late with one answer it gives no other, so that
// it is asked for that one less often. What costs a timeout is asked for at slow times its
// usual period.
func misbehaviour(t *testing.T, config map[string]any, slow int64) {
	config["oneRequestPerProperty"] = true
	r := newRig(t)
	defer r.stop()
	r.apply("d", "127.0.0.1:1", config, prop{name: "good", typ: "INT", visitor: holding(7), cycle: 50}, prop{name: "late", typ: "INT", visitor: holding(150), cycle: 1500 * slow},
		prop{name: "busy", typ: "INT", visitor: holding(151), cycle: 400}, prop{name: "wrong", typ: "INT", visitor: holding(152), cycle: 400 * slow})
	for property, reason := range map[string]string{"late": "Timeout", "busy": "UnitBusy", "wrong": "Timeout"} {
		polltest.Eventually(t, property, func() bool {
			tw := r.sink.twin("d", property).Reported
			return tw != nil && tw.Metadata["quality"] == "bad" && tw.Metadata["reason"] == reason && tw.Value == ""
		})
	}
	n := r.sink.count("d", "good")
	polltest.Eventually(t, "the others go on", func() bool { return r.sink.count("d", "good") > n+10 })
	r.stop()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if x.Quality == devices.Good && (x.Property != "good" || x.Value != devices.Int(1007)) {
				t.Fatalf("%s = %s", x.Property, x.Value)
			}
		}
	}
}

// start runs a slave of testdata until the test ends; it has said that it is ready.
func start(t *testing.T, args ...string) {
	t.Helper()
	c := exec.Command(python, args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%v does not start (Debian packages python3-pymodbus, libmodbus5): %v", args, err)
	}
}
