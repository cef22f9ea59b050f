package fieldbus

import (
	"fmt"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// plan lists the values that both collectors read.
type plan struct {
	Targets []target `json:"targets"`
	// Interval is the period of reading, in nanoseconds; 0: as fast as possible.
	Interval time.Duration `json:"interval"`
	// Settle is the time of reading before anything counts: what a collector has to find
	// out once, such as which units are dead.
	Settle time.Duration `json:"settle,omitempty"`
	// Writes is the number of desired values written per second while reading.
	Writes int `json:"writes,omitempty"`
}

// target is one unit behind one address.
type target struct {
	// Address is host:port, or the path of a serial port.
	Address string `json:"address"`
	Unit    byte   `json:"unit"`
	// Baud is the rate of a serial port (8E1), 0: Modbus TCP.
	Baud int `json:"baud,omitempty"`
	// Timeout bounds one transaction.
	Timeout time.Duration `json:"timeout"`
	Points  []point       `json:"points"`
}

// point is one value of two registers.
type point struct {
	Address int  `json:"address"`
	Float   bool `json:"float,omitempty"`
}

// name encodes the expected value: see expected.
func (p point) name(unit byte) string {
	if p.Float {
		return fmt.Sprintf("f%d", p.Address)
	}
	return fmt.Sprintf("u%da%d", unit, p.Address)
}

// expected reports whether a value is the one of its point.
func (p point) expected(unit byte, v devices.Value) bool {
	f, ok := v.Float64()
	if !ok || f < 0 {
		return false
	}
	n := uint64(f)
	if p.Float {
		return n>>8 == uint64(p.Address)
	}
	return n>>24 == uint64(unit) && n>>8&0xffff == uint64(p.Address)
}

// contiguous returns n floats from address 0.
func contiguous(n int) []point {
	points := make([]point, n)
	for i := range points {
		points[i] = point{Address: 2 * i, Float: true}
	}
	return points
}

// integers returns n integers, each from the address that at returns.
func integers(n int, at func(int) int) []point {
	points := make([]point, n)
	for i := range points {
		points[i] = point{Address: at(i)}
	}
	return points
}

// definition returns the target for the driver.
func (t target) definition(name string, cycle time.Duration) devices.Definition {
	config := map[string]any{"slaveID": int64(t.Unit), "timeout": t.Timeout.Milliseconds()}
	if t.Baud > 0 {
		config["communicateMode"], config["serialName"], config["baudRate"] = "RTU", t.Address, int64(t.Baud)
		config["parity"] = "even"
	} else {
		config["communicateMode"], config["address"] = "TCP", t.Address
	}
	d := devices.Definition{
		Device: devices.Ref{Namespace: "bench", Name: name}, Protocol: "modbus", Config: devices.Merge(config),
	}
	for _, p := range t.Points {
		d.Points = append(d.Points, p.definition(t.Unit, cycle))
	}
	return d
}

func (p point) definition(unit byte, cycle time.Duration) devices.Point {
	v := map[string]any{"register": "InputRegister", "offset": int64(p.Address), "dataType": "uint32"}
	kind := v1beta1.INT
	if p.Float {
		v["register"], v["dataType"], kind = "HoldingRegister", "float32", v1beta1.FLOAT
	}
	return devices.Point{Name: p.name(unit), Type: kind, Cycle: cycle, Visitor: devices.Merge(v)}
}

// telegraf returns the plan as Telegraf's configuration, in its request style. With fill
// above 0 it merges requests over holes of that many registers (max_insert), which is
// its best setting where no hole is illegal.
func (p plan) telegraf(fill int) string {
	var b strings.Builder
	for _, controller := range p.controllers() {
		first := controller[0]
		b.WriteString("[[inputs.modbus]]\n  name = \"bench\"\n  configuration_type = \"request\"\n")
		if first.Baud > 0 {
			fmt.Fprintf(&b, "  controller = \"file://%s\"\n  transmission_mode = \"RTU\"\n  baud_rate = %d\n  data_bits = 8\n  parity = \"E\"\n  stop_bits = 1\n", first.Address, first.Baud)
		} else {
			fmt.Fprintf(&b, "  controller = \"tcp://%s\"\n", first.Address)
		}
		fmt.Fprintf(&b, "  timeout = \"%dms\"\n", first.Timeout.Milliseconds())
		for _, t := range controller {
			t.telegraf(&b, fill)
		}
	}
	return b.String()
}

// controllers groups the targets by address: each address has one connection.
func (p plan) controllers() [][]target {
	index := map[string]int{}
	var out [][]target
	for _, t := range p.Targets {
		i, ok := index[t.Address]
		if !ok {
			i = len(out)
			index[t.Address], out = i, append(out, nil)
		}
		out[i] = append(out[i], t)
	}
	return out
}

func (t target) telegraf(b *strings.Builder, fill int) {
	for _, float := range []bool{true, false} {
		register, kind := "input", "UINT32"
		if float {
			register, kind = "holding", "FLOAT32"
		}
		var fields []string
		for _, p := range t.Points {
			if p.Float == float {
				fields = append(fields, fmt.Sprintf("    { address=%d, name=\"%s\", type=\"%s\" },\n", p.Address, p.name(t.Unit), kind))
			}
		}
		if len(fields) == 0 {
			continue
		}
		fmt.Fprintf(b, "  [[inputs.modbus.request]]\n    slave_id = %d\n    byte_order = \"ABCD\"\n    register = \"%s\"\n", t.Unit, register)
		if fill > 0 {
			fmt.Fprintf(b, "    optimization = \"max_insert\"\n    optimization_max_register_fill = %d\n", fill)
		}
		b.WriteString("    fields = [\n" + strings.Join(fields, "") + "    ]\n")
	}
}
