package plugin

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// none is shown for missing values, as in kubectl's tables.
const none = "<none>"

// output selects the output format: a table, a wide table, names, or another of kubectl's
// formats.
type output struct {
	flags     *genericclioptions.PrintFlags
	noHeaders bool
}

func newOutput(cmd *cobra.Command) *output {
	scheme := runtime.NewScheme()
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	o := &output{flags: genericclioptions.NewPrintFlags("").WithTypeSetter(scheme)}
	o.flags.AddFlags(cmd)
	f := cmd.Flags().Lookup("output")
	f.Usage = "Output format. One of: (wide, " + f.Usage[len("Output format. One of: ("):]
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "Do not print the headers of a table")
	return o
}

func (o *output) format() string { return *o.flags.OutputFormat }

// check returns an error if the format is invalid, before any request is made.
func (o *output) check() error {
	switch o.format() {
	case "", "wide", "name":
		return nil
	}
	_, err := o.printer()
	return err
}

// printer returns the printer of a format that is neither a table nor names.
func (o *output) printer() (printers.ResourcePrinter, error) {
	p, err := o.flags.ToPrinter()
	if genericclioptions.IsNoCompatiblePrinterError(err) {
		return nil, fmt.Errorf("unable to match a printer suitable for the output format %q, allowed formats are: wide, json, yaml, name and templates", o.format())
	}
	return p, err
}

// table prints rows as kubectl does.
func (s *session) table(o *output, columns []metav1.TableColumnDefinition, rows []metav1.TableRow) error {
	return printTable(o, columns, rows, s.Out)
}

func printTable(o *output, columns []metav1.TableColumnDefinition, rows []metav1.TableRow, to io.Writer) error {
	p := printers.NewTablePrinter(printers.PrintOptions{Wide: o.format() == "wide", NoHeaders: o.noHeaders})
	return p.PrintObj(&metav1.Table{ColumnDefinitions: columns, Rows: rows}, to)
}

func column(name string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string"}
}

func wide(name string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Priority: 1}
}

// age formats the time since t.
func age(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return none
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// size formats a number of bytes.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprint(n)
	case n < 1<<20:
		return fmt.Sprintf("%.1fKi", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1fMi", float64(n)/(1<<20))
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return printable(s)
}

// printable replaces what a terminal would not show as it is: control characters, and those that
// change the direction of a text. A part of what is printed comes from gateways.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
