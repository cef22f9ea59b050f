//go:build interop

// These tests need python3-pymodbus, socat and mbpoll, and fail without them.

package modbus

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices"
)

func TestInteropPymodbusTCP(t *testing.T) {
	addr := freeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	command(t, "/usr/bin/python3", "testdata/slave.py", "tcp", port)
	interop(t, func(unit int) map[string]any { return map[string]any{"ip": "127.0.0.1", "port": port, "slaveID": unit} })
	// Another master sees what we have written.
	out, err := exec.Command("mbpoll", "-m", "tcp", "-p", port, "-a", "1", "-t", "4", "-0", "-r", "20", "-c", "1", "-1", "127.0.0.1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "4321") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestInteropPymodbusRTU(t *testing.T) {
	dir := t.TempDir()
	a, b := dir+"/a", dir+"/b"
	command(t, "socat", "pty,raw,echo=0,link="+a, "pty,raw,echo=0,link="+b)
	eventually(t, "pty pair", func() bool { _, errA := os.Stat(a); _, errB := os.Stat(b); return errA == nil && errB == nil })
	command(t, "/usr/bin/python3", "testdata/slave.py", "rtu", a)
	interop(t, func(unit int) map[string]any {
		return map[string]any{"serialPort": b, "baudRate": 19200, "slaveID": unit, "timeout": 500}
	})
}

func interop(t *testing.T, config func(int) map[string]any) {
	r := newRig(t)
	for unit, name := range map[int]string{1: "one", 2: "two"} {
		r.apply(name, "127.0.0.1:1", config(unit),
			prop{name: "hr", typ: "INT", visitor: holding(7), cycle: 50}, prop{name: "ir", typ: "INT", ro: true, visitor: visitor("InputRegister", 150, nil), cycle: 50},
			prop{name: "co", typ: "BOOLEAN", visitor: visitor("CoilRegister", 3, nil), cycle: 50}, prop{name: "di", typ: "BOOLEAN", ro: true, visitor: visitor("DiscreteInputRegister", 4, nil), cycle: 50},
			prop{name: "beyond", typ: "INT", ro: true, visitor: holding(199), cycle: 50}, prop{name: "outside", typ: "INT", ro: true, visitor: holding(201), cycle: 50},
			prop{name: "set", typ: "INT", visitor: holding(20), cycle: 50, desired: "4321"}, prop{name: "set32", typ: "FLOAT", visitor: holding(30), cycle: 50, desired: "-2.5"},
			prop{name: "setco", typ: "BOOLEAN", visitor: visitor("CoilRegister", 10, nil), cycle: 50, desired: "true"})
	}
	for unit, name := range map[int]string{1: "one", 2: "two"} {
		base := int64(1000 * unit)
		for property, want := range map[string]string{
			"hr": devices.Int(base + 7).String(), "ir": devices.Int(base + 150).String(), "co": "true", "di": "false",
			"beyond": devices.Int(base + 199).String(), "set": "4321", "set32": "-2.5", "setco": "true",
		} {
			eventually(t, name+" "+property, func() bool { return r.sink.reported(name, property) == want })
		}
		eventually(t, "the refused point", func() bool {
			tw := r.sink.twin(name, "outside").Reported
			return tw != nil && tw.Metadata["reason"] == "IllegalAddress"
		})
		for _, p := range []string{"set", "set32", "setco"} {
			eventually(t, p, func() bool { return r.sink.ack(name, p) == "applied" })
		}
	}
}

// command runs a program for the test; a Python one has said that it is ready.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if name == "/usr/bin/python3" {
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatalf("%s %v: %v", name, args, err)
		}
	}
}
