// Command protogen generates Go code from .proto files with plugins of pinned versions.
// protoc must be installed (Debian: protobuf-compiler and libprotobuf-dev). go generate calls it.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// plugins has the protoc plugins by name, as packages for `go install`.
var plugins = map[string]string{
	"protoc-gen-go":      "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
	"protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
}

func main() {
	root := flag.String("root", ".", "`folder` to which the .proto files and their imports are relative")
	flag.Parse()
	if err := generate(*root, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

// generate writes the code next to the files, whose paths are relative to root.
func generate(root string, files []string) error {
	bin, err := os.MkdirTemp("", "protogen")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	args := []string{
		"--proto_path=" + root,
		"--go_out=" + root, "--go_opt=paths=source_relative",
		"--go-grpc_out=" + root, "--go-grpc_opt=paths=source_relative",
	}
	for name, pkg := range plugins {
		install := exec.Command("go", "install", pkg)
		install.Env = append(os.Environ(), "GOBIN="+bin)
		if err := run(install); err != nil {
			return err
		}
		args = append(args, "--plugin="+name+"="+filepath.Join(bin, name))
	}
	return run(exec.Command("protoc", append(args, files...)...))
}

func run(c *exec.Cmd) error {
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("run %s: %w", c.Args[0], err)
	}
	return nil
}
