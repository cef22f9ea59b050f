package archtest

import (
	"go/ast"
	"go/token"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	testName = regexp.MustCompile(`\bTest[A-Z]\w*(?:/\w+)?`)
	declared = regexp.MustCompile(`func (Test[A-Z]\w*)\(t \*testing\.T\)`)
	// breakpoint matches folder.function and folder.(*type).method, as a debugger takes them.
	breakpoint = regexp.MustCompile("`((?:bridge|leaf|devices|streams)[a-z0-9/]*)\\.(?:\\(\\*(\\w+)\\)\\.)?(\\w+)`")
	quoted     = regexp.MustCompile(`"([^"]+)"`)
)

// A promise whose test does not exist is no promise. The documents name so many tests at least.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	list, err := exec.Command("git", "-C", "../..", "ls-files", "--cached", "--others", "--exclude-standard", "*_test.go").Output()
	if err != nil {
		t.Fatalf("list test files: %v", err)
	}
	all, sources := map[string]bool{}, ""
	for _, file := range strings.Fields(string(list)) {
		source, err := os.ReadFile("../../" + file)
		if err != nil {
			continue // deleted and not committed yet
		}
		for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
			all[m[1]] = true
		}
		sources += string(source)
	}
	for doc, least := range map[string]int{"../../docs/delivery.md": 40, "../../docs/security.md": 25} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		names := testName.FindAllString(string(text), -1)
		if len(names) < least {
			t.Errorf("%s names %d tests, want %d", doc, len(names), least)
		}
		for _, name := range names {
			test, sub, _ := strings.Cut(name, "/")
			if !all[test] || sub != "" && !strings.Contains(sources, `"`+sub+`"`) {
				t.Errorf("%s names %s, which does not exist", doc, name)
			}
		}
	}
}

// A newcomer who follows a flow finds every function of it.
func TestArchitectureNamesFunctionsThatExist(t *testing.T) {
	const doc = "../../docs/architecture.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	for _, p := range products(t) {
		for _, f := range p.files {
			for _, d := range f.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					exists[p.folder+" "+receiver(f)+" "+f.Name.Name] = true
				}
			}
		}
	}
	_, flows, _ := strings.Cut(string(text), "\n## Four flows")
	flows, _, _ = strings.Cut(flows, "\n## ")
	named := breakpoint.FindAllStringSubmatch(flows, -1)
	if len(named) < 30 {
		t.Errorf("%s names %d functions", doc, len(named))
	}
	for _, n := range named {
		if !exists[n[1]+" "+n[2]+" "+n[3]] {
			t.Errorf("%s names %s, which does not exist", doc, n[0])
		}
	}
}

// An operator who searches for a log message of the documentation finds it in a log.
func TestOperationsNamesLogMessagesThatExist(t *testing.T) {
	const doc = "../../docs/operations.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	var literals strings.Builder
	for _, p := range products(t) {
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					literals.WriteString(l.Value + "\n")
				}
				return true
			})
		}
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| log ") {
			continue
		}
		symptom, _, _ := strings.Cut(strings.TrimPrefix(line, "| log "), " | ")
		for _, m := range quoted.FindAllStringSubmatch(symptom, -1) {
			rows++
			if !strings.Contains(literals.String(), m[1]) {
				t.Errorf("%s names the log message %q, which does not exist", doc, m[1])
			}
		}
	}
	if rows < 5 {
		t.Errorf("%s names %d log messages", doc, rows)
	}
}

// normalReasons are the reasons of conditions that need nobody.
var normalReasons = []string{"AccountStored", "AsExpected", "Heard", "Reserved", "SiteHeard", "UpToDate"}

// An operator finds what to do for each reason that a condition of a Site or a Node, or the state of a
// device, can have by the bridge.
func TestOperationsHasEveryReason(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	symptoms, _, _ := strings.Cut(string(text), "\n## ")
	reason, reasons := regexp.MustCompile(`(?:\b(?:[Rr]eason|Degraded)\w+ += |\bReason: )"(\w+)"`), 0
	for _, source := range []string{
		"bridge/api/v1alpha1/condition.go", "streams/presence.go", "bridge/orphans/mark.go", "bridge/writeback/placement.go", "bridge/writeback/nodes.go",
	} {
		code, err := os.ReadFile("../../" + source)
		if err != nil {
			t.Fatal(err)
		}
		found := reason.FindAllStringSubmatch(string(code), -1)
		if len(found) == 0 {
			t.Errorf("%s has no reasons", source)
		}
		for _, m := range found {
			reasons++
			if !slices.Contains(normalReasons, m[1]) && !strings.Contains(symptoms, m[1]) {
				t.Errorf("docs/operations.md has no symptom for %s of %s", m[1], source)
			}
		}
	}
	if reasons < 30 {
		t.Errorf("%d reasons were found", reasons)
	}
}

// Whoever is called by an alert finds what to look at.
func TestOperationsHasEveryAlert(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile("../../deploy/kubernetes/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`(?m)^ *- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1)
	if len(alerts) < 10 {
		t.Errorf("%d alerts were found", len(alerts))
	}
	for _, a := range alerts {
		if !strings.Contains(string(text), "\n| `"+a[1]+"` | ") {
			t.Errorf("docs/operations.md has no row for the alert %s", a[1])
		}
	}
}

// A row that belongs to another table has another number of cells, and its last ones are not shown.
func TestRowsFitTheirTables(t *testing.T) {
	list, err := exec.Command("git", "-C", "../..", "ls-files", "--cached", "--others", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Fatalf("list documents: %v", err)
	}
	code, rows := regexp.MustCompile("`[^`]*`"), 0
	for _, file := range strings.Fields(string(list)) {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			continue // deleted and not committed yet
		}
		want := 0
		for i, line := range strings.Split(string(text), "\n") {
			if !strings.HasPrefix(line, "|") {
				want = 0
				continue
			}
			rows++
			cells := strings.Count(strings.ReplaceAll(code.ReplaceAllString(line, ""), `\|`, ""), "|")
			if want == 0 {
				want = cells
			}
			if cells != want {
				t.Errorf("%s:%d: %d cells in a table of %d", file, i+1, cells-1, want-1)
			}
		}
	}
	if rows < 300 {
		t.Errorf("%d rows were found", rows)
	}
}
