package modbus

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/internal/polltest"
)

var update = flag.Bool("update", false, "write the columns of testdata/kubeedge.tsv that are this driver's")

// thermometer is a manifest in KubeEdge's words, of a device at addr.
func thermometer(t *testing.T, addr string) (*v1beta1.Device, *v1beta1.DeviceModel) {
	t.Helper()
	b, err := os.ReadFile("testdata/thermometer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
	for i, doc := range bytes.Split(b, []byte("\n---\n")) {
		if err := yaml.UnmarshalStrict(doc, []any{m, d}[i]); err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	d.UID = "uid"
	d.Spec.Protocol.ConfigData.Data["ip"], d.Spec.Protocol.ConfigData.Data["port"] = host, port
	return d, m
}

// A manifest as KubeEdge's samples are means here what it means there: a float in one
// register is an unsigned number times scale, read and written.
func TestKubeEdgeManifest(t *testing.T) {
	s := newSlave(t)
	s.set(1, holdings, 0, 215)
	r := newRig(t)
	d, m := thermometer(t, s.addr)
	r.send(d, m)
	polltest.Eventually(t, "21.5 degrees", func() bool { return r.sink.reported("thermometer", "degrees") == "21.5" })
	polltest.Eventually(t, "power", func() bool { return r.sink.ack("thermometer", "power") == "applied" })
	if got := s.get(1, coils, 0); got != 1 {
		t.Errorf("the coil is %d", got)
	}
	if q := r.sink.twin("thermometer", "degrees").Reported.Metadata["quality"]; q != "good" {
		t.Error(q)
	}
	r.desire(d, "degrees", "42.5")
	polltest.Eventually(t, "42.5 degrees", func() bool {
		return r.sink.ack("thermometer", "degrees") == "applied" && r.sink.reported("thermometer", "degrees") == "42.5"
	})
	if got := s.get(1, holdings, 0); got != 425 {
		t.Errorf("42.5 degrees were written as %d", got)
	}
	s.set(1, holdings, 0, 0xfff6)
	polltest.Eventually(t, "unsigned", func() bool { return r.sink.reported("thermometer", "degrees") == "6552.6" })

	// Its settings are all known, and the plan says what could be meant otherwise.
	def, _, problems := devices.Resolve(d, m)
	if len(problems) > 0 {
		t.Error(problems)
	}
	_, found := Describe(def)
	if len(found) != 1 || found[0].Reason != ReasonAmbiguous || !found[0].Warning || !strings.Contains(found[0].Message, "float16") {
		t.Errorf("%+v", found)
	}
}

// combination is a row of testdata/kubeedge.tsv.
type combination struct {
	typ       v1beta1.PropertyType
	visitor   map[string]any
	registers []byte
	// mappers and demo are what KubeEdge's drivers read, "error" when they give nothing.
	mappers, demo string
}

func parseCombination(t *testing.T, row []string) combination {
	t.Helper()
	limit, err := strconv.Atoi(row[2])
	if err != nil {
		t.Fatal(err)
	}
	c := combination{typ: v1beta1.PropertyType(row[0]), visitor: map[string]any{
		"register": "HoldingRegister", "offset": 0, "dataType": row[1], "limit": limit, "scale": row[3], "isSwap": row[4], "isRegisterSwap": row[5],
	}}
	if c.registers, err = hex.DecodeString(row[6]); err != nil {
		t.Fatal(err)
	}
	for i, into := range []*string{&c.mappers, &c.demo} {
		if *into, err = strconv.Unquote(row[7+i]); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// outcome is what the driver reads, and the registers that writing that gives.
func (c combination) outcome() (value, written string) {
	p, err := parsePoint(0, devices.Point{Type: c.typ, Writable: true, Visitor: devices.Merge(c.visitor)}, settings{maxRegisters: 125, maxBits: 2000})
	if err != nil {
		return "refused", ""
	}
	v, err := p.decode(c.registers, 0)
	if err != nil {
		return err.Error(), ""
	}
	data, err := p.encode(v.String(), c.registers)
	if err != nil {
		return strconv.Quote(v.String()), err.Error()
	}
	return strconv.Quote(v.String()), hex.EncodeToString(data)
}

// Every combination of type, dataType, limit, scale and swaps reads and writes what the
// table says, beside what KubeEdge's drivers make of it.
func TestKubeEdgeCombinations(t *testing.T) {
	const file = "testdata/kubeedge.tsv"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	rows := 0
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			out.WriteString(line + "\n")
			continue
		}
		rows++
		row := strings.Split(line, "\t")
		c := parseCombination(t, row[:9])
		value, written := c.outcome()
		now := strings.Join(append(slices.Clone(row[:9]), value, written), "\t")
		if now != line && !*update {
			t.Errorf("is   %s\nwant %s", now, line)
		}
		out.WriteString(now + "\n")
		c.judge(t, line, value, written)
	}
	if rows < 500 {
		t.Fatalf("%d combinations", rows)
	}
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// judge holds what must be so whatever the table says.
func (c combination) judge(t *testing.T, line, value, written string) {
	t.Helper()
	text, err := strconv.Unquote(value)
	if err != nil {
		return // no value
	}
	number := c.typ == v1beta1.FLOAT || c.typ == v1beta1.DOUBLE
	limit, named := c.visitor["limit"].(int), c.visitor["dataType"].(string)
	if (named == "float" || named == "double") && limit == 1 && c.visitor["isSwap"] == "false" && number && !near(text, c.demo) {
		t.Errorf("%s\nreads %s", line, text)
	}
	if number && named == strings.ToLower(string(c.typ)) && limit > 1 && c.mappers != "error" && !near(text, c.mappers) {
		t.Errorf("%s\nreads %s", line, text)
	}
	if number && named != "bool" && written != hex.EncodeToString(c.registers) {
		t.Errorf("%s\nreads %s, which is written as %s", line, text, written)
	}
}

// near compares numbers as far as KubeEdge's drivers print them.
func near(a, b string) bool {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && fmt.Sprintf("%.2f", x) == fmt.Sprintf("%.2f", y)
}
