package devices

import (
	"slices"
	"testing"
)

type namedDriver struct {
	Driver
	names []string
}

func (n namedDriver) Protocols() []string { return n.names }

func TestWithoutProtocols(t *testing.T) {
	d := namedDriver{names: []string{"modbus", "modbus-tcp"}}
	for _, c := range []struct{ without, want []string }{
		{nil, []string{"modbus", "modbus-tcp"}}, {[]string{"Modbus"}, []string{"modbus-tcp"}}, {[]string{"opcua"}, []string{"modbus", "modbus-tcp"}},
	} {
		if got := WithoutProtocols(d, c.without).Protocols(); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.without, got, c.want)
		}
	}
	if !slices.Equal(d.names, []string{"modbus", "modbus-tcp"}) {
		t.Error(d.names)
	}
}
