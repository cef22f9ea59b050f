package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// skipsFile and shortFile are the lists of specs that do not run, and of those of the short run.
var (
	//go:embed skips.yaml
	skipsFile []byte
	//go:embed short.yaml
	shortFile []byte
)

// skip is why specs do not run.
type skip struct {
	// Reason is why the specs cannot pass on this kind of machine; the table prints it.
	Reason string `json:"reason"`
	// Specs are regular expressions; each matches the whole of a spec's name, and at least one.
	Specs []string `json:"specs"`
}

// readSkips returns the skips of a file.
func readSkips(data []byte) ([]skip, error) {
	var skips []skip
	if err := yaml.UnmarshalStrict(data, &skips); err != nil {
		return nil, fmt.Errorf("read the skips: %w", err)
	}
	for i, s := range skips {
		if s.Reason == "" || len(s.Specs) == 0 {
			return nil, fmt.Errorf("read the skips: entry %d (%q) needs a reason and specs", i+1, s.Reason)
		}
	}
	return skips, nil
}

// partition divides the names of specs into those that run and those that do not, with the
// reason. A pattern that matches no name of all is an error, since the spec that it was written
// for has another name now, or is gone.
func partition(names, all []string, skips []skip) (run []string, skipped map[string]string, err error) {
	skipped = map[string]string{}
	var unused []error
	for _, s := range skips {
		for _, p := range s.Specs {
			re, err := regexp.Compile("^(?:" + p + ")$")
			if err != nil {
				return nil, nil, fmt.Errorf("skip %q: %w", p, err)
			}
			if !slices.ContainsFunc(all, re.MatchString) {
				unused = append(unused, fmt.Errorf("skip %q matches no spec: correct or remove it", p))
			}
			for _, name := range names {
				if _, known := skipped[name]; !known && re.MatchString(name) {
					skipped[name] = s.Reason
				}
			}
		}
	}
	for _, name := range names {
		if _, no := skipped[name]; !no {
			run = append(run, name)
		}
	}
	return run, skipped, errors.Join(unused...)
}

// readShort returns the names of the short run. Each must be one of all.
func readShort(data []byte, all []string) ([]string, error) {
	var names []string
	if err := yaml.UnmarshalStrict(data, &names); err != nil {
		return nil, fmt.Errorf("read the short selection: %w", err)
	}
	var unknown []error
	for _, n := range names {
		if !slices.Contains(all, n) {
			unknown = append(unknown, fmt.Errorf("the short selection has %q, which is no spec of this version", n))
		}
	}
	return names, errors.Join(unknown...)
}

// focus returns the regular expression for Ginkgo that matches exactly these specs. Ginkgo
// matches it against the name of the suite and that of the spec.
func focus(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = regexp.QuoteMeta(n)
	}
	return " (?:" + strings.Join(quoted, "|") + ")$"
}

// spec is a spec in Ginkgo's JSON report (types.SpecReport).
type spec struct {
	ContainerHierarchyTexts  []string
	ContainerHierarchyLabels [][]string
	LeafNodeType             string
	LeafNodeText             string
	LeafNodeLabels           []string
	State                    string
	RunTime                  time.Duration
	NumAttempts              int
	Failure                  struct{ Message string }
}

func (s spec) name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// conformance reports whether the spec is one of those that every Kubernetes must pass.
func (s spec) conformance() bool {
	labels := append(slices.Concat(s.ContainerHierarchyLabels...), s.LeafNodeLabels...)
	return slices.Contains(labels, "Conformance")
}

// The states of a spec that are not failures of its own.
const (
	statePassed      = "passed"
	stateSkipped     = "skipped"
	statePending     = "pending"
	stateInterrupted = "interrupted"
)

// readReport returns the specs of a JSON report, by name, without those that were not selected,
// and the failures of what runs before and after all specs.
func readReport(path string) (map[string]spec, []string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the report: %w", err)
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, nil, fmt.Errorf("read the report %s: %w", path, err)
	}
	specs := map[string]spec{}
	var around []string
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			switch {
			case s.LeafNodeType != "It":
				if s.State != statePassed && s.State != stateSkipped {
					around = append(around, fmt.Sprintf("%s: %s: %s", s.LeafNodeType, s.State, s.Failure.Message))
				}
			case s.State == statePending, s.State == stateSkipped && s.Failure.Message == "":
			default:
				specs[s.name()] = s
			}
		}
	}
	return specs, around, nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
