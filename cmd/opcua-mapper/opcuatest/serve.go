// Package opcuatest is a plant for tests of OPC UA mappers: a real server with a few
// variables.
package opcuatest

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/server"
	"github.com/gopcua/opcua/ua"
)

// Serve serves the variables ns=1;s=Temperature, Setpoint, Speed, Running and Serial on
// address, a host:port, until ctx ends. Sessions are anonymous and not encrypted.
func Serve(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("serve OPC UA: %w", err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("serve OPC UA on %s: %w", address, err)
	}
	s := server.New(
		server.EndPoint(host, n), server.EnableSecurity("None", ua.MessageSecurityModeNone), server.EnableAuthMode(ua.UserTokenTypeAnonymous),
	)
	root, err := s.Namespace(0)
	if err != nil {
		return fmt.Errorf("serve OPC UA: %w", err)
	}
	ns := server.NewNodeNameSpace(s, "urn:plant")
	s.AddNamespace(ns)
	root.Objects().AddRef(ns.Objects(), id.HasComponent, true)
	for name, value := range map[string]any{
		"Temperature": 21.5, "Setpoint": float32(40), "Speed": int32(900), "Running": false, "Serial": "PX-7",
	} {
		ns.Objects().AddRef(ns.AddNewVariableStringNode(name, value), id.HasComponent, true)
	}
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("serve OPC UA on %s: %w", address, err)
	}
	<-ctx.Done()
	return s.Close()
}
