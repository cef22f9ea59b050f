package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/devices/modbus/scan"
)

// scanOptions are the flags of leaf device scan.
type scanOptions struct {
	units, registers      string
	name, namespace, node string
}

const scanHelp = `Find the units of a Modbus line, their identification, readable registers and SunSpec
models, and print a Device and a DeviceModel of each to start from. It only reads.

The arguments are settings of the connection, named as in protocol.configData:

  leaf device scan ip=192.168.1.20 > plc.yaml
  leaf device scan serialPort=/dev/ttyUSB0 baudRate=9600 parity=even --units 1-10 > meters.yaml

No other master may use a serial line meanwhile: stop its devices at the leaf first (annotation
petiole.dev/disabled). pauseBetweenRequests=50 spares slow devices.

Exit code: 0 units were found, 1 none was found or the scan broke off (what was found is
printed), 2 wrong arguments.`

func newScanCommand() *cobra.Command {
	var o scanOptions
	cmd := &cobra.Command{
		Use: "scan NAME=VALUE...", Short: "Find the units of a Modbus line and print manifests to start from; only reads",
		Long: scanHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return scanLine(cmd.Context(), o, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.units, "units", "", "`units` to scan, as in 1,3,10-20 (default 1; on serial lines 1-247)")
	flags.StringVar(&o.registers, "registers", "0-255", "`addresses` on the wire to probe in each table")
	flags.StringVar(&o.name, "name", "device", "the manifests are named `NAME`-<unit>")
	flags.StringVar(&o.namespace, "namespace", "default", "`namespace` of the manifests")
	flags.StringVar(&o.node, "node", "", "`node` that operates the devices")
	return cmd
}

// scanLine scans and prints the manifests.
func scanLine(ctx context.Context, o scanOptions, args []string, out, errs io.Writer) error {
	given, err := settingsOf(args)
	if err != nil {
		return err
	}
	so, err := o.scan()
	if err != nil {
		return err
	}
	so.Progress = func(unit byte) { fmt.Fprintf(errs, "scanning unit %d\n", unit) }
	config := devices.Merge(given)
	if err := modbus.CheckConnection(config); err != nil {
		return err
	}
	units, err := modbus.Scan(ctx, config, so)
	for _, u := range units {
		fmt.Fprintln(errs, u)
		if err := o.print(out, u, given); err != nil {
			return exitError{1, err}
		}
	}
	switch {
	case err != nil:
		return exitError{1, err}
	case len(units) == 0:
		return exitError{1, errors.New("no unit replies: check the connection and the settings of the line, or scan more --units")}
	}
	return nil
}

// settingsOf parses NAME=VALUE arguments. The unit is not a setting of the connection.
func settingsOf(args []string) (map[string]any, error) {
	given := map[string]any{}
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		switch {
		case !ok || name == "":
			return nil, fmt.Errorf("%q is not NAME=VALUE", a)
		case slices.Contains([]string{"slaveid", "deviceid", "unitid", "slave", "unit"}, strings.ToLower(name)):
			return nil, fmt.Errorf("%q: use --units", a)
		case given[name] != nil:
			return nil, fmt.Errorf("%s is given twice", name)
		}
		given[name] = value
	}
	return given, nil
}

// scan returns the options of the scan.
func (o scanOptions) scan() (s scan.Options, err error) {
	if m := validation.IsDNS1123Subdomain(o.name); len(m) > 0 {
		return s, fmt.Errorf("--name %q: %s", o.name, m[0])
	}
	if s.First, s.Last, err = parseSpan(o.registers, 0, 65535); err != nil {
		return s, fmt.Errorf("--registers: %w", err)
	}
	for part := range strings.SplitSeq(o.units, ",") {
		if o.units == "" {
			break
		}
		first, last, err := parseSpan(part, 1, 255)
		if err != nil {
			return s, fmt.Errorf("--units: %w", err)
		}
		for id := first; id <= last; id++ {
			if !slices.Contains(s.Units, byte(id)) {
				s.Units = append(s.Units, byte(id))
			}
		}
	}
	return s, nil
}

// parseSpan parses a number or a span of two, as in 10-20.
func parseSpan(s string, least, most int) (first, last int, err error) {
	low, high, isSpan := strings.Cut(strings.TrimSpace(s), "-")
	if !isSpan {
		high = low
	}
	first, err = strconv.Atoi(low)
	if err == nil {
		last, err = strconv.Atoi(high)
	}
	if err != nil || first < least || last > most || first > last {
		return 0, 0, fmt.Errorf("%q is not a number or span within %d and %d", s, least, most)
	}
	return first, last, nil
}

// print writes the manifests of a unit.
func (o scanOptions) print(out io.Writer, u scan.Unit, config map[string]any) error {
	d, m := u.Manifests(o.namespace, fmt.Sprintf("%s-%d", o.name, u.ID), o.node, config)
	var b bytes.Buffer
	fmt.Fprintf(&b, "---\n# %s\n", u)
	for i, object := range []any{m, d} {
		text, err := yaml.Marshal(object)
		if err != nil {
			return fmt.Errorf("encode manifest of unit %d: %w", u.ID, err)
		}
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(text)
	}
	if _, err := out.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write manifests: %w", err)
	}
	return nil
}
