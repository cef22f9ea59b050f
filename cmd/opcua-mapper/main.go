// Command opcua-mapper operates OPC UA devices for a leaf. It is an example of a mapper: it
// uses only KubeEdge's Device Mapper Interface, so it shows what a mapper of any protocol, in
// any language, has to do.
//
// A device is one server (protocol.configData: url, timeout in milliseconds), a property
// is one variable (visitors.configData: nodeID, for example ns=2;s=Speed). Sessions are
// anonymous and not encrypted. A desired value is written when it differs from the
// variable's, and that of a command (metadata command: "true") once in any case, in the
// variable's own type.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"sigs.k8s.io/yaml"
)

// exitConfig is the exit code for an invalid configuration.
const exitConfig = 2

// config is the configuration file, with the keys of KubeEdge's mappers.
type config struct {
	GRPCServer struct {
		// SocketPath is the socket on which the mapper serves the leaf.
		SocketPath string `json:"socket_path"`
	} `json:"grpc_server"`
	Common struct {
		Name       string `json:"name"`
		Version    string `json:"version"`
		APIVersion string `json:"api_version"`
		// Protocol is the protocol name of the devices. Default opcua.
		Protocol string `json:"protocol"`
		// Address is not used. Mappers of some protocols have the address of their devices there.
		Address string `json:"address"`
		// EdgeCoreSock is the socket of the leaf. Default /etc/kubeedge/dmi.sock.
		EdgeCoreSock string `json:"edgecore_sock"`
	} `json:"common"`
}

func loadConfig(path string) (config, error) {
	var c config
	c.Common.Name, c.Common.Version, c.Common.APIVersion = "opcua-mapper", "v1.0.0", "v1.0.0"
	c.Common.Protocol, c.Common.EdgeCoreSock = "opcua", "/etc/kubeedge/dmi.sock"
	c.GRPCServer.SocketPath = "/etc/kubeedge/opcua.sock"
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return c, fmt.Errorf("decode configuration %s: %w", path, err)
	}
	var errs []error
	for name, value := range map[string]string{
		"grpc_server.socket_path": c.GRPCServer.SocketPath, "common.name": c.Common.Name,
		"common.protocol": c.Common.Protocol, "common.edgecore_sock": c.Common.EdgeCoreSock,
	} {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s: must be set", name))
		}
	}
	return c, errors.Join(errs...)
}

func main() { os.Exit(run(os.Args[1:])) }

// run runs the command and returns its exit code: 0, 1 if the mapper ended with an error, 2 if
// the arguments or the configuration are invalid.
func run(args []string) int {
	var path string
	code := 0
	cmd := &cobra.Command{
		Use: "opcua-mapper", Short: "Operate OPC UA devices for a leaf", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(path)
			if err != nil {
				return err
			}
			code = runMapper(cmd.Context(), c)
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "config", "/etc/kubeedge/opcua-mapper.yaml", "configuration `file`")
	cmd.SetArgs(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := cmd.ExecuteContext(ctx); err != nil {
		return exitConfig
	}
	return code
}

func runMapper(ctx context.Context, c config) int {
	logConfig := zap.NewProductionConfig()
	logConfig.DisableStacktrace = true
	log, err := logConfig.Build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "open log:", err)
		return 1
	}
	if err := newMapper(c, log).run(ctx); err != nil {
		log.Error("mapper stopped", zap.Error(err))
		return 1
	}
	return 0
}
