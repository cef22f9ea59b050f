package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestBlocks(t *testing.T) {
	const document = "# A\ntext\n```sh\none\n# no heading\n```\n## B\n```ini\ntwo\n```\n"
	got, err := blocks(document)
	if err != nil {
		t.Fatal(err)
	}
	want := []block{{"A", "sh", "one\n# no heading\n"}, {"B", "ini", "two\n"}}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := blocks("# A\n```sh\none\n"); err == nil || !strings.Contains(err.Error(), "does not end") {
		t.Errorf("a block without an end: %v", err)
	}
}

// TestTheWalkKnowsEveryBlock: each block of docs/install.md is run by task test:install, or the list
// says why not.
func TestTheWalkKnowsEveryBlock(t *testing.T) {
	document, err := os.ReadFile("../../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := matchSteps(string(document)); err != nil {
		t.Error(err)
	}
	for _, s := range walkSteps {
		if (s.on == "") == (s.reason == "") {
			t.Errorf("%q below %q: it is run, or there is a reason", s.first, s.heading)
		}
	}
	for name, changed := range map[string]string{
		"a new block":     string(document) + "## More\n```sh\ntrue\n```\n",
		"one less":        strings.Replace(string(document), "```ini", "", 1),
		"another command": strings.Replace(string(document), "kubectl petiole site create plant-a", "kubectl create site plant-a", 1),
	} {
		if _, err := matchSteps(changed); err == nil {
			t.Errorf("%s is not noticed", name)
		}
	}
}
