// Command vulnerabilities runs govulncheck on packages, with Go's vulnerability database
// from the module proxy, and fails if the code calls a vulnerable function of a module that
// go.mod requires. Vulnerabilities of the standard library are printed and do not fail:
// they depend on the Go that builds, which the caller has to update.
//
// Usage: vulnerabilities -db VERSION PACKAGE...
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/vuln/scan"
)

// database is the module that holds the database, in the folder data/osv.
const database = "golang.org/x/vulndb"

func main() {
	version := flag.String("db", "latest", "`version` of the module "+database)
	flag.Parse()
	found, err := check(context.Background(), *version, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "vulnerabilities:", err)
		os.Exit(2)
	}
	if !report(os.Stdout, found) {
		os.Exit(1)
	}
}

// finding is the report of one vulnerability that the code reaches.
type finding struct {
	module, found, fixed, summary string
}

// check returns the vulnerabilities that the packages call, by their ids.
func check(ctx context.Context, version string, packages []string) (map[string]finding, error) {
	dir, err := download(ctx, version)
	if err != nil {
		return nil, err
	}
	var out, complaint bytes.Buffer
	cmd := scan.Command(ctx, append([]string{"-format", "json", "-db", "file://" + filepath.Join(dir, "data/osv")}, packages...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err = cmd.Start()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("scan: %w\n%s", err, complaint.String())
	}
	return called(&out)
}

// download returns the folder of the database.
func download(ctx context.Context, version string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", database+"@"+version)
	data, err := cmd.Output()
	var module struct{ Dir, Error string }
	if json.Unmarshal(data, &module) == nil && module.Error != "" {
		return "", errors.New(module.Error)
	}
	if err != nil {
		return "", fmt.Errorf("download %s@%s: %w", database, version, err)
	}
	return module.Dir, nil
}

// called reads govulncheck's messages. A finding is called when its trace has a function.
func called(r io.Reader) (map[string]finding, error) {
	found, summaries := map[string]finding{}, map[string]string{}
	for messages := json.NewDecoder(r); ; {
		var m struct {
			OSV *struct {
				ID, Summary string
			}
			Finding *struct {
				OSV          string
				FixedVersion string `json:"fixed_version"`
				Trace        []struct{ Module, Version, Function string }
			}
		}
		err := messages.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("decode what govulncheck found: %w", err)
		}
		if m.OSV != nil {
			summaries[m.OSV.ID] = m.OSV.Summary
		}
		if f := m.Finding; f != nil && len(f.Trace) > 0 && f.Trace[0].Function != "" {
			found[f.OSV] = finding{module: f.Trace[0].Module, found: f.Trace[0].Version, fixed: f.FixedVersion}
		}
	}
	for id, f := range found {
		f.summary = summaries[id]
		found[id] = f
	}
	return found, nil
}

// report prints what was found and reports whether that can stay.
func report(out io.Writer, found map[string]finding) bool {
	fine := true
	for _, id := range slices.Sorted(maps.Keys(found)) {
		f := found[id]
		kind := "vulnerable"
		if f.module == "stdlib" {
			kind = "update Go"
		} else {
			fine = false
		}
		fmt.Fprintf(out, "%s: https://pkg.go.dev/vuln/%s: %s %s, fixed in %s: %s\n", kind, id, f.module, f.found, f.fixed, f.summary)
	}
	if fine {
		fmt.Fprintln(out, "no module that is required has a known vulnerability that is called")
	}
	return fine
}
