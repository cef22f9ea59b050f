package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/version"
)

func TestArguments(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "leaf.yaml")
	for _, c := range []struct {
		args      []string
		code      int
		out, errs string
	}{
		{[]string{"version"}, 0, version.String() + "\n", ""},
		{[]string{"--version"}, 0, version.String(), ""},
		{[]string{"--help"}, 0, "device", ""},
		{[]string{"device", "plan", "--help"}, 0, "--filename", ""},
		{[]string{"foo"}, configfile.ExitCode, "", `unknown command "foo"`},
		{[]string{"device"}, configfile.ExitCode, "", "expected plan, read or scan"},
		{[]string{"device", "plan"}, configfile.ExitCode, "", "-f is missing"},
		{[]string{"user"}, configfile.ExitCode, "", "accepts 1 arg(s)"},
		{[]string{"user", "--dir", dir, "Öperator"}, configfile.ExitCode, "", `"Öperator"`},
		{[]string{"user", "--dir", dir, "operator"}, 0, filepath.Join(dir, "operator.conf"), ""},
		{[]string{"--colour"}, configfile.ExitCode, "", "unknown flag: --colour"},
		{[]string{"--config", missing}, configfile.ExitCode, "", missing},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), c.args, strings.NewReader(""), &out, &errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.errs) {
			t.Errorf("%v: exit code %d, printed %q and %q; want %d, %q and %q", c.args, code, out.String(), errs.String(), c.code, c.out, c.errs)
		}
	}
}
