package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// pymodbus starts the slave of the Modbus driver's tests and returns its address.
func pymodbus(t *testing.T) string {
	t.Helper()
	addr := porttest.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/usr/bin/python3", "../../devices/modbus/testdata/slave.py", "tcp", port)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("slave does not start (Debian package python3-pymodbus): %v", err)
	}
	return addr
}

// What a scan prints are manifests without problems, which read what is there.
func TestDeviceScanPrintsManifests(t *testing.T) {
	addr := pymodbus(t)
	code, out, errs := device(t, "scan", "ip="+addr, "timeout=5000", "--units", "1-2", "--registers", "190-210", "--name", "plc", "--node", "plant-a-1")
	if code != 0 || !strings.Contains(errs, `unit 2, modelName "AM-7 three-phase"`) || !strings.Contains(errs, "holding:190-199") {
		t.Fatal(code, errs)
	}
	path := write(t, out)
	code, plan, errs := device(t, "plan", "-f", path)
	if code != 0 || errs != "" || !strings.Contains(plan, "default/plc-2.coil190") {
		t.Fatal(code, errs, plan)
	}
	code, read, errs := device(t, "read", "-f", path, "--device", "default/plc-2")
	if code != 0 || errs != "" {
		t.Fatal(code, errs, read)
	}
	for _, want := range []string{"holding190", "2190", "input199", "2199", "coil191", "true"} {
		if !strings.Contains(read, want) {
			t.Errorf("%q is missing in\n%s", want, read)
		}
	}
	for _, want := range []string{"nodeName: plant-a-1", "identification: true", "slaveID: 2", "deviceModelRef"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

func TestDeviceScanArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		errs string
		code int
	}{
		{[]string{"scan"}, "requires at least 1 arg", 2},
		{[]string{"scan", "10.0.0.1"}, `"10.0.0.1" is not NAME=VALUE`, 2},
		{[]string{"scan", "ip=10.0.0.1", "ip=10.0.0.2"}, "ip is given twice", 2},
		{[]string{"scan", "ip=10.0.0.1", "slaveID=3"}, "use --units", 2},
		{[]string{"scan", "ip=10.0.0.1", "baudrat=3"}, "baudrat is not a setting of the driver; did you mean baudRate?", 2},
		{[]string{"scan", "port=502"}, `ip "" is not an address`, 2},
		{[]string{"scan", "ip=10.0.0.1", "--units", "1,300"}, `--units: "300" is not a number or span within 1 and 255`, 2},
		{[]string{"scan", "ip=10.0.0.1", "--registers", "9-1"}, `--registers: "9-1"`, 2},
		{[]string{"scan", "ip=10.0.0.1", "--name", "A b"}, `--name "A b"`, 2},
		{[]string{"read", "-f", "x", "--watch", "-o", "json"}, "--watch cannot be used together", 2},
		{[]string{"read", "-f", "x", "--watch", "--interval", "1ms"}, "--interval 1ms is shorter than 100ms", 2},
	} {
		if code, _, errs := device(t, c.args...); code != c.code || !strings.Contains(errs, c.errs) {
			t.Errorf("%v: exit code %d, %q; expected %d, %q", c.args, code, errs, c.code, c.errs)
		}
	}
}

// buffer is a bytes.Buffer that is safe for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const watchManifest = `
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: m}
spec:
  properties:
    - {name: level, type: INT, accessMode: ReadWrite}
    - {name: beyond, type: INT, accessMode: ReadOnly}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: tank}
spec:
  deviceModelRef: {name: m}
  protocol: {protocolName: modbus, configData: {ip: "%ADDR%", slaveID: 1, timeout: 2000}}
  properties:
    - {name: level, collectCycle: 100, visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: 7}}}
    - {name: beyond, collectCycle: 100, visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: 207}}}
`

// The table of read --watch follows the device, which another master changes.
func TestDeviceReadWatch(t *testing.T) {
	addr := pymodbus(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, strings.ReplaceAll(watchManifest, "%ADDR%", addr))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"device", "read", "--watch", "--interval", "100ms", "-f", path}, strings.NewReader(""), &out, &errs)
	}()
	polltest.Eventually(t, "a value", func() bool { return strings.Contains(out.String(), "level   1007   good") })
	for _, want := range []string{"DEVICE default/tank responds", "beyond  -      bad", "IllegalAddress"} {
		polltest.Eventually(t, want, func() bool { return strings.Contains(out.String(), want) })
	}
	if text, err := exec.Command("mbpoll", "-m", "tcp", "-p", port, "-a", "1", "-t", "4", "-0", "-r", "7", "-1", "127.0.0.1", "4242").CombinedOutput(); err != nil {
		t.Fatalf("mbpoll (Debian package mbpoll): %v\n%s", err, text)
	}
	polltest.Eventually(t, "the new value", func() bool { return strings.Contains(out.String(), "level   4242   good") })
	cancel()
	if code := <-done; code != 0 || errs.String() != "" {
		t.Fatal(code, errs.String())
	}
}
