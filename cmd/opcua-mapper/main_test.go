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

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/server"
	"github.com/gopcua/opcua/ua"
	"go.uber.org/goleak"
)

// The test binary is also the mapper and the OPC UA server, so that both can be killed.
const (
	envMapper = "OPCUA_MAPPER_TEST_MAPPER" // the mapper's configuration file
	envServer = "OPCUA_MAPPER_TEST_SERVER" // the server's host:port
)

func TestMain(m *testing.M) {
	if path := os.Getenv(envMapper); path != "" {
		os.Exit(run([]string{"-config", path}))
	}
	if address := os.Getenv(envServer); address != "" {
		if err := serveOPCUA(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// serveOPCUA serves a few variables until the process is told to end.
func serveOPCUA(address string) error {
	host, port, _ := strings.Cut(address, ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	s := server.New(
		server.EndPoint(host, n), server.EnableSecurity("None", ua.MessageSecurityModeNone), server.EnableAuthMode(ua.UserTokenTypeAnonymous),
	)
	root, err := s.Namespace(0)
	if err != nil {
		return err
	}
	ns := server.NewNodeNameSpace(s, "urn:plant")
	s.AddNamespace(ns)
	root.Objects().AddRef(ns.Objects(), id.HasComponent, true)
	for name, value := range map[string]any{
		"Temperature": 21.5, "Setpoint": float32(40), "Speed": int32(900), "Running": false, "Serial": "PX-7",
	} {
		ns.Objects().AddRef(ns.AddNewVariableStringNode(name, value), id.HasComponent, true)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := s.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}

// TestImports: the mapper knows nothing of Petiole but the interface.
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
