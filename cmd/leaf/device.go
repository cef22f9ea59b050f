package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/internal/configfile"
)

// deviceCommand is the first argument that makes leaf look at devices.
const deviceCommand = "device"

const deviceUsage = `usage: leaf device plan -f file [-f file]… [-o text|json]
       leaf device read -f file [-f file]… [-o text|json] [-device namespace/name] [-frames]

The files are manifests of Devices and DeviceModels, several documents each; - is
standard input. plan shows what the Modbus driver will ask for, and how long that
takes; it touches nothing. read reads every property once from the live devices.

Exit code: 0 nothing is wrong, 1 a device has a problem (told with field and value) or
could not be read, 2 wrong arguments.
`

// files collects the values of a flag that may be given several times.
type files []string

func (f *files) String() string     { return strings.Join(*f, ",") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

// deviceOptions are the arguments of leaf device.
type deviceOptions struct {
	files  files
	output string
	device string
	frames bool
}

// runDevice is leaf device; it returns the exit code.
func runDevice(args []string, in io.Reader, out, errs io.Writer) int {
	verb, o, err := deviceArguments(args)
	if err != nil {
		fmt.Fprintf(errs, "%s\n\n%s", err, deviceUsage)
		return configfile.ExitCode
	}
	defs, findings, err := loadDevices(o.files, in)
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	if o.device != "" {
		defs = slices.DeleteFunc(defs, func(d devices.Definition) bool { return d.Device.String() != o.device })
		findings = slices.DeleteFunc(findings, func(f modbus.Finding) bool { return f.Device != o.device })
	}
	if len(defs) == 0 && len(findings) == 0 {
		fmt.Fprintln(errs, "no Modbus device in the files")
		return 1
	}
	if verb == "plan" {
		return planDevices(defs, findings, o, out, errs)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return readDevices(ctx, defs, findings, o, out, errs)
}

func deviceArguments(args []string) (verb string, o deviceOptions, err error) {
	if len(args) == 0 || (args[0] != "plan" && args[0] != "read") {
		return "", o, errors.New("expected plan or read")
	}
	fs := flag.NewFlagSet("leaf device "+args[0], flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Var(&o.files, "f", "manifest `file`")
	fs.StringVar(&o.output, "o", "text", "output `format`")
	fs.StringVar(&o.device, "device", "", "only this device, namespace/name")
	fs.BoolVar(&o.frames, "frames", false, "show the last frames")
	if err := fs.Parse(args[1:]); err != nil {
		return "", o, err
	}
	switch {
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case len(o.files) == 0:
		err = errors.New("-f is missing")
	case o.output != "text" && o.output != "json":
		err = fmt.Errorf("-o %q is neither text nor json", o.output)
	}
	return args[0], o, err
}

// tell writes findings, and whether one of them is a problem.
func tell(findings []modbus.Finding, errs io.Writer) (problem bool) {
	for _, f := range findings {
		kind := "problem"
		if f.Warning {
			kind = "warning"
		} else {
			problem = true
		}
		where := f.Device
		if f.Property != "" {
			where += " property " + f.Property
		}
		fmt.Fprintf(errs, "%s: %s: %s: %s\n", kind, where, f.Reason, strings.ReplaceAll(f.Message, "\n", "; "))
	}
	return problem
}

func encode(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func table(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }
