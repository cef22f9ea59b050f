// Package render writes the lab's configuration files from the templates in deploy/.
//
// A field that the template names and the data lacks is an error, never an empty value.
package render

import (
	"bytes"
	"fmt"
	"os"
	"text/template"

	"github.com/petiole-io/petiole/internal/durable"
)

// File renders the template at source with data to path, readable by root only, and
// creates path's folder.
func File(source, path string, data any) error {
	t, err := template.ParseFiles(source)
	if err != nil {
		return fmt.Errorf("parse template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Option("missingkey=error").Execute(&b, data); err != nil {
		return fmt.Errorf("render %s: %w", source, err)
	}
	if err := Secret(path, b.Bytes()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Secret writes a file readable by its owner only, and creates its folder.
func Secret(path string, data []byte) error { return Write(path, data, 0o600) }

// Write replaces the file at path as a whole, and creates its folder, which only the owner
// may read. A process that is killed meanwhile leaves the old file or the new one. A file that
// is right already is left alone.
func Write(path string, data []byte, mode os.FileMode) error {
	if same(path, data, mode) {
		return nil
	}
	return durable.WriteFile(path, data, mode)
}

func same(path string, data []byte, mode os.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != mode {
		return false
	}
	old, err := os.ReadFile(path)
	return err == nil && bytes.Equal(old, data)
}
