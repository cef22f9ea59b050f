package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An installed package whose recommendation is missing must not pass: it was what kept
// the lab from starting on every bare Debian 12.
func TestPackageThatDoesNotRunIsMissing(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	script := "#!/bin/sh\necho Traceback >&2\necho \"ModuleNotFoundError: No module named 'serial'\" >&2\nexit 1\n"
	if err := os.WriteFile(broken, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	lacks := Missing([]Package{
		{"works", "", run("true")},
		{"broken", "", run(broken, "--version")},
		{"absent", "", run(filepath.Join(dir, "absent"))},
	})
	if names := Names(lacks); !slices.Equal(names, []string{"broken", "absent"}) {
		t.Fatalf("missing: %v", names)
	}
	if err := lacks[0].Err.Error(); !strings.Contains(err, "broken --version: exit status 1: ModuleNotFoundError: No module named 'serial'") {
		t.Errorf("broken: %s", err)
	}
}

func TestPackagesAreNamedOnceWithTheirUse(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range append(Lab(), Tests()...) {
		if seen[p.Name] || p.Use == "" {
			t.Errorf("package %q: named before: %v, use %q", p.Name, seen[p.Name], p.Use)
		}
		seen[p.Name] = true
	}
}

func TestDynamicProgramIsNotStatic(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := static(sh)(); err == nil || !strings.Contains(err.Error(), "dynamically") {
		t.Errorf("%s: %v", sh, err)
	}
}
