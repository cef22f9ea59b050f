package modbus

import (
	"net"
	"testing"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// With the setting identification the status has what function 43/14 returns.
func TestIdentificationOfPymodbus(t *testing.T) {
	t.Parallel()
	addr := porttest.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	start(t, "testdata/slave.py", "tcp", port)
	line := pair(t)
	start(t, "testdata/slave.py", "rtu", line.A)
	p := newProxy(t, addr)
	n := functions(p)
	r := newRig(t)
	defer r.stop()
	r.apply("tcp", p.addr, map[string]any{"identification": true}, prop{name: "hr", typ: "INT", visitor: holding(7), cycle: 50})
	r.apply("without", p.addr, map[string]any{"slaveID": 2}, prop{name: "hr", typ: "INT", visitor: holding(7), cycle: 50})
	r.apply("rtu", "127.0.0.1:1", map[string]any{"serialPort": line.B, "baudRate": 19200, "identification": true}, prop{name: "hr", typ: "INT", visitor: holding(7), cycle: 50})
	for _, device := range []string{"tcp", "rtu"} {
		polltest.Eventually(t, device+" is identified", func() bool {
			st := r.sink.status(device)
			if st == nil {
				return false
			}
			id, _ := st.Extensions.Data["identification"].(map[string]any)
			return st.State == v1beta1.StateOnline && id["vendorName"] == "Acme Meters" && id["productCode"] == "AM-7" && id["revision"] == "2.11" && id["modelName"] == "AM-7 three-phase"
		})
	}
	polltest.Eventually(t, "the other device is read", func() bool { return r.sink.count("without", "hr") > 0 })
	read := r.sink.count("tcp", "hr")
	polltest.Eventually(t, "further polls", func() bool { return r.sink.count("tcp", "hr") > read })
	if id := r.sink.status("without").Extensions.Data["identification"]; id != nil {
		t.Errorf("not asked for: %v", id)
	}
	if got := n[43].Load(); got != 2 {
		t.Errorf("%d requests with function 43, expected 2: basic and regular objects, once", got)
	}
}

// A device that does not know the function is online. Libmodbus refuses it.
func TestIdentificationIsNotKnown(t *testing.T) {
	t.Parallel()
	addr := porttest.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	start(t, "testdata/libmodbus.py", "tcp", port)
	line := pair(t)
	start(t, "testdata/libmodbus.py", "rtu", line.A, "0.5")
	r := newRig(t)
	defer r.stop()
	r.apply("tcp", addr, map[string]any{"identification": true, "timeout": 2000}, prop{name: "hr", typ: "INT", visitor: holding(7), cycle: 100})
	r.apply("rtu", "127.0.0.1:1", map[string]any{"serialPort": line.B, "baudRate": 19200, "identification": true, "timeout": 3000, "minTimeout": 3000}, prop{name: "hr", typ: "INT", visitor: holding(7), cycle: 100})
	for _, device := range []string{"tcp", "rtu"} {
		polltest.Eventually(t, device+" is read", func() bool { return r.sink.count(device, "hr") > 0 })
		read := r.sink.count(device, "hr")
		polltest.Eventually(t, device+" is read further", func() bool { return r.sink.count(device, "hr") > read+10 })
		st := r.sink.status(device)
		if st.State != v1beta1.StateOnline || st.Extensions.Data["identification"] != nil {
			t.Errorf("%s: %s %v", device, st.State, st.Extensions.Data)
		}
	}
	r.stop()
	r.sink.mu.Lock()
	defer r.sink.mu.Unlock()
	for device, all := range r.sink.statuses {
		for _, st := range all {
			if st.Status.State != v1beta1.StateOnline {
				t.Errorf("%s was %s: %v", device, st.Status.State, st.Status.Extensions.Data)
			}
		}
	}
}
