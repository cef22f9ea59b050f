package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
)

// readOutput is the JSON output of leaf device read for one device.
type readOutput struct {
	Device string `json:"device"`
	modbus.Inspection
	Error string `json:"error,omitempty"`
}

// readDevices reads every property of the devices once, one device after another, and prints
// the values. It returns the exit code.
func readDevices(ctx context.Context, defs []devices.Definition, found []modbus.Finding, o deviceOptions, out, errs io.Writer) int {
	code := 0
	var all []readOutput
	for _, def := range defs {
		in, problems, err := modbus.Inspect(ctx, def, nil)
		d := readOutput{Device: def.Device.String(), Inspection: in}
		for _, p := range problems {
			found = append(found, modbus.Finding{Device: d.Device, Problem: p})
		}
		if err != nil {
			d.Error = err.Error()
			found = append(found, modbus.Finding{Device: d.Device, Problem: devices.Problem{Reason: devices.ReasonInvalidProtocol, Message: err.Error()}})
		}
		for _, r := range in.Observations {
			if r.Quality == devices.Bad {
				code = 1
			}
		}
		all = append(all, d)
		if o.output == "text" {
			writeInspection(out, d, o.frames)
		}
	}
	if o.output == "json" {
		if err := encode(out, all); err != nil {
			fmt.Fprintln(errs, "write readings:", err)
			return 1
		}
	}
	if printFindings(found, errs) {
		return 1
	}
	return code
}

func writeInspection(out io.Writer, d readOutput, frames bool) {
	fmt.Fprintf(out, "DEVICE %s at %s, unit %d\n", d.Device, d.Endpoint, d.Unit)
	t := table(out)
	fmt.Fprintln(t, "  NAME\tVALUE\tQUALITY\tREGISTERS\tTABLE\tADDRESS\tTIME\tREASON")
	for _, r := range d.Observations {
		at := "-"
		if !r.Time.IsZero() {
			at = r.Time.Format("15:04:05.000")
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.Point, formatValue(r.Value), r.Quality, formatRegisters(r.Registers), r.Table, r.Address, at, r.Reason)
	}
	_ = t.Flush() // an error of out concerns the later writes too
	if len(d.Refused) > 0 {
		fmt.Fprintf(out, "  the device refuses: %s (setting forbidden)\n", strings.Join(d.Refused, ", "))
	}
	if frames {
		for _, f := range d.Frames {
			fmt.Fprintln(out, " ", f)
		}
	}
}

func formatValue(v devices.Value) string {
	if v.Kind() == devices.None {
		return "-"
	}
	return v.String()
}

// formatRegisters formats registers in hexadecimal, as manuals and other tools do.
func formatRegisters(registers []uint16) string {
	if len(registers) == 0 {
		return "-"
	}
	words := make([]string, len(registers))
	for i, r := range registers {
		words[i] = fmt.Sprintf("%04x", r)
	}
	return strings.Join(words, " ")
}
