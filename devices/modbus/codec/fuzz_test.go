package codec

import (
	"bytes"
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Any bytes decode to a value or a reason, for every data type and order.
func FuzzCodec(f *testing.F) {
	types := []string{"int", "int16", "uint32", "int48", "uint64", "float16", "float32", "float64", "bcd", "t5", "t6", "mod10k", "umod10k", "bit", "bool", "int8", "string", "bytes"}
	for i := range types {
		f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8}, byte(i), byte(i))
	}
	f.Fuzz(func(t *testing.T, wire []byte, kind, how byte) {
		data := types[int(kind)%len(types)]
		typ := []v1beta1.PropertyType{v1beta1.INT, v1beta1.DOUBLE, v1beta1.STRING, v1beta1.BOOLEAN, v1beta1.BYTES}[int(how/4)%5]
		visitor := map[string]any{"register": "HoldingRegister", "offset": 0, "dataType": data, "byteOrder": orders[how%4]}
		if data == "string" || data == "bytes" {
			visitor["limit"] = 4
		}
		p, err := read(typ, visitor)
		if err != nil || len(wire) < 2*p.Count {
			return
		}
		wire = wire[:2*p.Count]
		v, err := p.encoding.decode(wire)
		if err != nil {
			return
		}
		if v.Kind() == devices.None {
			t.Fatal("no value and no reason")
		}
		back, err := p.encoding.encode(v.String(), bytes.Clone(wire))
		if err != nil || typ == v1beta1.BOOLEAN || data == "string" || data == "bool" {
			return // truth values and texts have several forms
		}
		again, err := p.encoding.decode(back)
		if err != nil || again != v {
			t.Fatalf("%s %s: %x is %s is %x is %s (%v)", typ, data, wire, v, back, again, err)
		}
	})
}
