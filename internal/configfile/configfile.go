// Package configfile reads a binary's YAML configuration strictly: an unknown key is
// an error, and every field that is wrong is reported at once, with its value.
package configfile

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

// Problems collects the errors of a configuration, in the words of Kubernetes' own
// validation. The zero value is ready for use.
type Problems struct{ list field.ErrorList }

// Add reports a field by its path, its value and what it must be.
func (p *Problems) Add(path string, value any, want string) {
	p.list = append(p.list, field.Invalid(field.NewPath(path), value, want))
}

// Required reports the field when value is empty.
func (p *Problems) Required(path, value string) {
	if value == "" {
		p.list = append(p.list, field.Required(field.NewPath(path), ""))
	}
}

// OneOf reports the field when value is none of the supported ones.
func (p *Problems) OneOf(path, value string, supported ...string) {
	if !slices.Contains(supported, value) {
		p.list = append(p.list, field.NotSupported(field.NewPath(path), value, supported))
	}
}

// Name reports the field when value is not a DNS label (RFC 1123): sites
// are named in subjects, consumers and Kubernetes objects.
func (p *Problems) Name(path, value string) {
	for _, want := range validation.IsDNS1123Label(value) {
		p.Add(path, value, want)
	}
}

// File reports the field when value does not name a readable file.
func (p *Problems) File(path, value string) {
	f, err := os.Open(value)
	if err != nil {
		p.Add(path, value, "must be a readable file: "+err.Error())
		return
	}
	f.Close()
}

// Err returns all problems together, a line for each, or nil if there are none.
func (p *Problems) Err() error {
	var errs []error
	for _, e := range p.list {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
