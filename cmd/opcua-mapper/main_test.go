package main

import (
	"context"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/cmd/opcua-mapper/opcuatest"
)

// The test binary is also the mapper and the OPC UA server, so that both can be killed.
const (
	envMapper = "OPCUA_MAPPER_TEST_MAPPER" // the mapper's configuration file
	envServer = "OPCUA_MAPPER_TEST_SERVER" // the server's host:port
)

func TestMain(m *testing.M) {
	if path := os.Getenv(envMapper); path != "" {
		os.Exit(run([]string{"--config", path}))
	}
	if address := os.Getenv(envServer); address != "" {
		os.Exit(serve(address))
	}
	goleak.VerifyTestMain(m)
}

// serve runs the server until the process is terminated.
func serve(address string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := opcuatest.Serve(ctx, address); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestImports: the mapper imports nothing of Petiole but the interface.
func TestImports(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(path, "petiole") && path != "github.com/petiole-io/petiole/devices/dmi/v1beta1" {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}
