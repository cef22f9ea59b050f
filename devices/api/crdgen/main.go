// Command crdgen writes the CustomResourceDefinitions of devices.kubeedge.io from
// the Go types of package v1beta1, so that neither can lack a field of the other.
// Run it through go generate in package v1beta1; a test there compares what it
// would write with what is in the repository.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/petiole-io/petiole/devices/api/crdgen/schema"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: crdgen <source directory of the types> <directory for the YAML files>")
		os.Exit(2)
	}
	files, err := schema.Files(os.Args[1])
	if err == nil {
		err = write(os.Args[2], files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(dir string, files map[string][]byte) error {
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil { // public manifests
			return err
		}
	}
	return nil
}
