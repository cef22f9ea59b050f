package main

import (
	"go/format"
	"os"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/internal/lab/host"
)

// Each package of the list can be taken out of the tree's own source, and only that.
func TestEveryPackageCanBeTakenOutOfTheList(t *testing.T) {
	source, err := os.ReadFile("../host/packages.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range host.Lab() {
		got, err := withoutPackage(source, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := format.Source(got); err != nil {
			t.Errorf("without %s: %v", p.Name, err)
		}
		if strings.Contains(string(got), `{"`+p.Name+`", `) || len(got) < len(source)-300 {
			t.Errorf("without %s: %d of %d bytes are left", p.Name, len(got), len(source))
		}
		for _, other := range host.Lab() {
			if other.Name != p.Name && !strings.Contains(string(got), `{"`+other.Name+`", `) {
				t.Errorf("without %s there is no %s either", p.Name, other.Name)
			}
		}
	}
	if _, err := withoutPackage(source, "emacs"); err == nil || !strings.Contains(err.Error(), `"emacs"`) {
		t.Errorf("a package that is not in the list: %v", err)
	}
}
