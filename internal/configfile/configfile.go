// Package configfile reads a binary's YAML configuration strictly: an unknown key is
// an error, and every field that is wrong is reported at once, with its value.
package configfile

import (
	"errors"
	"fmt"
	"os"
	"regexp"

	"sigs.k8s.io/yaml"
)

// ExitCode is the exit code of a binary whose configuration is wrong. It has then
// started nothing.
const ExitCode = 2

// Load decodes the file at path over into, which holds the defaults. Unknown keys and
// keys given twice are errors.
func Load(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		return fmt.Errorf("decode configuration %s: %w", path, err)
	}
	return nil
}

// Problems collects the errors of a configuration. The zero value is ready for use.
type Problems struct{ errs []error }

// Add reports a field by its path, its value and what it must be.
func (p *Problems) Add(field string, value any, want string) {
	p.errs = append(p.errs, fmt.Errorf("%s: %q: %s", field, fmt.Sprint(value), want))
}

// Required reports the field when value is empty.
func (p *Problems) Required(field, value string) {
	if value == "" {
		p.Add(field, value, "must be set")
	}
}

// Name reports the field when value is not a DNS label (RFC 1123): sites and nodes
// are named in subjects, consumers and Kubernetes objects.
func (p *Problems) Name(field, value string) {
	if !label.MatchString(value) || len(value) > 63 {
		p.Add(field, value, "must be a DNS label: lower-case letters, digits and '-', at most 63")
	}
}

// File reports the field when value does not name a readable file.
func (p *Problems) File(field, value string) {
	f, err := os.Open(value)
	if err != nil {
		p.Add(field, value, "must be a readable file: "+err.Error())
		return
	}
	f.Close()
}

// Err returns all problems together, or nil if there are none.
func (p *Problems) Err() error { return errors.Join(p.errs...) }

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
