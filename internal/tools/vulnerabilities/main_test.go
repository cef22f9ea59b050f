package main

import (
	"bytes"
	"strings"
	"testing"
)

const messages = `{"osv": {"id": "GO-1", "summary": "a server reads too much"}}
{"osv": {"id": "GO-2", "summary": "a parser loops"}}
{"osv": {"id": "GO-3", "summary": "never called"}}
{"finding": {"osv": "GO-1", "fixed_version": "v1.26.9", "trace": [{"module": "stdlib", "version": "v1.26.8", "function": "Read"}]}}
{"finding": {"osv": "GO-2", "fixed_version": "v1.2.4", "trace": [{"module": "example.com/parser", "version": "v1.2.3", "function": "Parse"}]}}
{"finding": {"osv": "GO-3", "fixed_version": "v1.2.4", "trace": [{"module": "example.com/parser", "version": "v1.2.3"}]}}
`

func TestReport(t *testing.T) {
	found, err := called(strings.NewReader(messages))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if report(&out, found) {
		t.Error("a module that is vulnerable is no reason to fail")
	}
	want := `update Go: https://pkg.go.dev/vuln/GO-1: stdlib v1.26.8, fixed in v1.26.9: a server reads too much
vulnerable: https://pkg.go.dev/vuln/GO-2: example.com/parser v1.2.3, fixed in v1.2.4: a parser loops
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
	delete(found, "GO-2")
	if !report(&out, found) {
		t.Error("what only the standard library has is a reason to fail")
	}
}
