package modbus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// ignoredSettings are settings of KubeEdge's samples that have no meaning here.
var ignoredSettings = []string{"protocolid", "serialtype", "reconntimeout", "reconnretrytimes", "collecttimeout", "collectretrytimes", "collecttype", "max", "min", "name", "unitname"}

// warnings finds settings that the driver does not know or that can be understood in two
// ways. The device works nevertheless.
func warnings(def devices.Definition, s *settings, points []point) (found []devices.Problem) {
	var review devices.Review
	readSettings(review.Start(def.Config))
	found = append(found, unknown(def, "", &review)...)
	for i, p := range def.Points {
		readPoint(review.Start(p.Visitor), i, p, *s)
		found = append(found, unknown(def, p.Name, &review)...)
	}
	for i := range points {
		p := def.Points[points[i].index]
		for _, message := range codec.Ambiguous(p, &points[i].Point, s.points) {
			found = append(found, devices.Problem{Property: p.Name, Reason: devices.ReasonAmbiguous, Message: message})
		}
	}
	return found
}

// unknown finds the settings that were not looked up, most likely misspelt ones.
func unknown(def devices.Definition, property string, review *devices.Review) (found []devices.Problem) {
	for _, k := range review.Unread() {
		if slices.Contains(ignoredSettings, k) {
			continue
		}
		message := def.Spelling(property, k) + " is not a setting of the driver"
		if known := review.Nearest(k); known != "" {
			message += fmt.Sprintf("; did you mean %s?", known)
		}
		found = append(found, devices.Problem{Property: property, Reason: devices.ReasonUnknownSetting, Message: message})
	}
	return found
}

// namedProperties is the number of properties that a grouped warning names.
const namedProperties = 5

// grouped merges the warnings that say the same of several properties, so that those of a
// device with a thousand properties fit a status.
func grouped(all []devices.Problem) []devices.Problem {
	type text struct{ reason, message string }
	var out []devices.Problem
	at, properties := map[text]int{}, map[text][]string{}
	for _, p := range all {
		k := text{p.Reason, p.Message}
		if _, known := at[k]; !known {
			at[k] = len(out)
			out = append(out, p)
		}
		properties[k] = append(properties[k], p.Property)
	}
	for k, i := range at {
		more := properties[k][1:]
		if len(more) == 0 {
			continue
		}
		named := more[:min(len(more), namedProperties-1)]
		out[i].Message += " (also " + strings.Join(named, ", ")
		if n := len(more) - len(named); n > 0 {
			out[i].Message += fmt.Sprintf(" and %d more", n)
		}
		out[i].Message += ")"
	}
	return out
}
