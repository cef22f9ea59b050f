package scan

import (
	"cmp"
	"encoding/binary"
	"errors"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// SunSpecModel is a model of a SunSpec device (SunSpec Information Model Specification, 4): a
// block of holding registers that begins with its id and its length.
type SunSpecModel struct {
	ID int
	// Address is that of the register with the id. Length is without id and length.
	Address, Length int
}

// sunSpecBases are the addresses where the marker "SunS" may be.
var sunSpecBases = []int{40000, 50000, 0}

const (
	sunSpecMarker = 0x53756e53 // "SunS"
	sunSpecEnd    = 0xffff
	// maxSunSpecModels bounds the models that are followed on a device without an end marker.
	maxSunSpecModels = 100
)

// findSunSpec finds the models of a SunSpec device.
func (p *prober) findSunSpec() error {
	for _, base := range sunSpecBases {
		id, rest, ok, err := p.pair(base)
		if err != nil {
			return err
		}
		if !ok || id<<16|rest != sunSpecMarker {
			continue
		}
		at := base + 2
		for range maxSunSpecModels {
			model, length, ok, err := p.pair(at)
			if err != nil {
				return err
			}
			if !ok || model == sunSpecEnd || length == 0 {
				return nil
			}
			p.found.SunSpec = append(p.found.SunSpec, SunSpecModel{ID: model, Address: at, Length: length})
			at += 2 + length
		}
		return nil
	}
	return nil
}

// pair reads two holding registers. It returns false if the unit does not have them.
func (p *prober) pair(at int) (first, second int, ok bool, err error) {
	if at > 65534 {
		return 0, 0, false, nil
	}
	data, err := p.read(codec.Range{Table: codec.Holdings, Start: at, End: at + 2})
	switch {
	case err == nil:
		return int(register(data, 0)), int(register(data, 1)), true, nil
	case errors.Is(err, wire.ErrLink), errors.Is(err, errUnansweredProbes), p.Err() != nil:
		return 0, 0, false, err
	default:
		return 0, 0, false, nil
	}
}

func register(data []byte, i int) uint16 { return binary.BigEndian.Uint16(data[2*i:]) }

// sunSpecPoint is a point of a SunSpec model. Offset and scale are relative to the register with
// the model's id.
type sunSpecPoint struct {
	name     string
	offset   int
	dataType string
	count    int
	scale    int // of the register with the exponent, 0: none
	unit     string
	// notAvailable is the setting of a point whose kind has another number for "not implemented"
	// than its data type, as an accumulator has 0.
	notAvailable string
}

// commonPoints are those of model 1, which every SunSpec device has first.
var commonPoints = []sunSpecPoint{
	{name: "manufacturer", offset: 2, dataType: "string", count: 16},
	{name: "model", offset: 18, dataType: "string", count: 16},
	{name: "version", offset: 42, dataType: "string", count: 8},
	{name: "serialNumber", offset: 50, dataType: "string", count: 16},
}

// inverterPoints are the main ones of models 101 to 103.
var inverterPoints = []sunSpecPoint{
	{name: "current", offset: 2, dataType: "uint16", scale: 6, unit: "A"},
	{name: "voltageAN", offset: 10, dataType: "uint16", scale: 13, unit: "V"},
	{name: "power", offset: 14, dataType: "int16", scale: 15, unit: "W"},
	{name: "frequency", offset: 16, dataType: "uint16", scale: 17, unit: "Hz"},
	{name: "energy", offset: 24, dataType: "uint32", scale: 26, unit: "Wh", notAvailable: "0x00000000"},
	{name: "dcPower", offset: 31, dataType: "int16", scale: 32, unit: "W"},
	{name: "operatingState", offset: 38, dataType: "uint16"},
}

// points returns the points of the model that are known here.
func (m SunSpecModel) points() []sunSpecPoint {
	switch {
	case m.ID == 1 && m.Length >= 64:
		return commonPoints
	case m.ID >= 101 && m.ID <= 103 && m.Length >= 50:
		return inverterPoints
	default:
		return nil
	}
}

// property returns the property of a point of the model.
func (m SunSpecModel) property(s sunSpecPoint) v1beta1.ModelProperty {
	settings := map[string]any{
		"register": codec.Holdings.String(), "offset": m.Address + s.offset, "dataType": s.dataType, "notAvailable": cmp.Or(s.notAvailable, "sunspec"),
		"checkRegister": m.Address, "checkValue": m.ID, // a device may be set to other models later
	}
	p := v1beta1.ModelProperty{Name: s.name, Type: v1beta1.INT, AccessMode: v1beta1.ReadOnly, Unit: s.unit}
	if s.dataType == "string" {
		settings["limit"], p.Type = s.count, v1beta1.STRING
	}
	if s.scale > 0 {
		settings["scaleRegister"], p.Type = m.Address+s.scale, v1beta1.DOUBLE
	}
	p.Visitors = visitor(settings)
	return p
}
