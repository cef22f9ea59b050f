// Package render writes the lab's configuration files from the templates in deploy/.
//
// A field that the template names and the data lacks is an error, never an empty value.
package render

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

// File renders the template at source with data to path, readable by root only, and
// makes path's folder.
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

// Secret writes a file readable by its owner only, and makes its folder.
func Secret(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
