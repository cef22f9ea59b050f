package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
)

// deviceOptions are the flags of leaf device.
type deviceOptions struct {
	files  []string
	output string
	device string
	frames bool
	watch  bool
	every  time.Duration // between two tables of watch
}

const deviceHelp = `The files are manifests of Devices and DeviceModels, several documents each; - is
standard input.

Exit code: 0 no problem, 1 a device has a problem (printed with field and value) or could
not be read, 2 wrong arguments.`

func newDeviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "device", Short: "Check Modbus devices and their manifests, without a running leaf",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return errors.New("expected plan, read or scan") },
	}
	cmd.AddCommand(newPlanCommand(), newReadCommand(), newScanCommand())
	return cmd
}

func newPlanCommand() *cobra.Command {
	var o deviceOptions
	cmd := &cobra.Command{
		Use: "plan -f FILE", Short: "Show the requests of the Modbus driver and how long they take; sends nothing",
		Long: "Show the requests of the Modbus driver and how long they take; sends nothing.\n\n" + deviceHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDevice(cmd, o, planDevices) },
	}
	o.addFlags(cmd)
	return cmd
}

func newReadCommand() *cobra.Command {
	var o deviceOptions
	cmd := &cobra.Command{
		Use: "read -f FILE", Short: "Read every property once from the live devices, or go on with --watch",
		Long: "Read every property once from the live devices. With --watch the properties are read at\n" +
			"their periods, and a table of their values is shown, until the command is interrupted.\n\n" + deviceHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validateWatch(); err != nil {
				return err
			}
			return runDevice(cmd, o, func(defs []devices.Definition, findings []modbus.Finding, o deviceOptions, out, errs io.Writer) int {
				if o.watch {
					return watchDevices(cmd.Context(), defs, findings, o, out, errs)
				}
				return readDevices(cmd.Context(), defs, findings, o, out, errs)
			})
		},
	}
	o.addFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&o.frames, "frames", false, "show the last frames")
	flags.BoolVarP(&o.watch, "watch", "w", false, "show the values live")
	flags.DurationVar(&o.every, "interval", time.Second, "`time` between two tables of --watch, at least 100ms")
	return cmd
}

// shortestInterval is the shortest time between two tables of --watch.
const shortestInterval = 100 * time.Millisecond

func (o *deviceOptions) validateWatch() error {
	switch {
	case !o.watch:
		return nil
	case o.output != "text" || o.frames:
		return errors.New("--watch cannot be used together with -o json or --frames")
	case o.every < shortestInterval:
		return fmt.Errorf("--interval %s is shorter than %s", o.every, shortestInterval)
	default:
		return nil
	}
}

func (o *deviceOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.files, "filename", "f", nil, "manifest `file`; may be given several times")
	flags.StringVarP(&o.output, "output", "o", "text", "output `format`: text or json")
	flags.StringVar(&o.device, "device", "", "only this device, `namespace/name`")
}

func (o *deviceOptions) validate() error {
	if len(o.files) == 0 {
		return errors.New("-f is missing")
	}
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("-o %q is neither text nor json", o.output)
	}
	return nil
}

// runDevice loads the selected devices and passes them to inspect, which returns the exit
// code.
func runDevice(cmd *cobra.Command, o deviceOptions, inspect func([]devices.Definition, []modbus.Finding, deviceOptions, io.Writer, io.Writer) int) error {
	if err := o.validate(); err != nil {
		return err
	}
	defs, findings, err := loadDevices(o.files, cmd.InOrStdin())
	if err != nil {
		return exitError{1, err}
	}
	if o.device != "" {
		defs = slices.DeleteFunc(defs, func(d devices.Definition) bool { return d.Device.String() != o.device })
		findings = slices.DeleteFunc(findings, func(f modbus.Finding) bool { return f.Device != o.device })
	}
	if len(defs) == 0 && len(findings) == 0 {
		return exitError{1, errors.New("no Modbus device in the files")}
	}
	if code := inspect(defs, findings, o, cmd.OutOrStdout(), cmd.ErrOrStderr()); code != 0 {
		return exitError{code, errReported}
	}
	return nil
}

// printFindings prints findings. It reports whether one of them is a problem.
func printFindings(findings []modbus.Finding, errs io.Writer) (problem bool) {
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
