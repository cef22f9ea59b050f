package codec

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

var update = flag.Bool("update", false, "write the columns of testdata/kubeedge.tsv that are this driver's")

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
	p, err := read(c.typ, c.visitor)
	if err != nil {
		return "refused", ""
	}
	v, err := p.Decode(c.registers, 0)
	if err != nil {
		return err.Error(), ""
	}
	data, err := p.Encode(v.String(), c.registers)
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
