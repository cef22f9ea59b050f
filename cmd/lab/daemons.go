package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/lab"
	"github.com/petiole-io/petiole/internal/lab/controlplane"
	"github.com/petiole-io/petiole/internal/lab/host"
	images "github.com/petiole-io/petiole/internal/lab/registry"
	"github.com/petiole-io/petiole/internal/lab/slave"
)

func controlPlane() *cobra.Command {
	var cfg controlplane.Config
	cmd := &cobra.Command{
		Use: "controlplane", Short: "Run etcd and the Kubernetes control plane in this process", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Dir == "" {
				l, err := open()
				if err != nil {
					return err
				}
				cfg.Dir = l.ControlPlaneDir()
			}
			log, err := logger()
			if err != nil {
				return err
			}
			c, err := controlplane.New(cfg, log)
			if err != nil {
				return err
			}
			return c.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&cfg.Dir, "dir", "", "folder of credentials and data (default the lab's)")
	cmd.Flags().StringVar(&cfg.BindAddress, "bind-address", "127.0.0.1", "address that the API server listens on")
	cmd.Flags().IntVar(&cfg.APIPort, "api-port", lab.APIPort, "port of the API server")
	cmd.Flags().IntVar(&cfg.EtcdPort, "etcd-port", lab.EtcdPort, "port of etcd for clients")
	cmd.Flags().IntVar(&cfg.EtcdPeerPort, "etcd-peer-port", lab.EtcdPeerPort, "port of etcd for peers")
	cmd.Flags().StringVar(&cfg.AdvertiseAddress, "advertise", lab.AdvertiseAddress, "address that default/kubernetes shows")
	return cmd
}

func registry() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use: "registry", Short: "Serve the lab's images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger()
			if err != nil {
				return err
			}
			return images.Run(cmd.Context(), address, host.Busybox, log)
		},
	}
	cmd.Flags().StringVar(&address, "listen", lab.ImagesAddress, "host and port")
	return cmd
}

func modbusSlave() *cobra.Command {
	var address, writes string
	cmd := &cobra.Command{
		Use: "modbus-slave", Short: "Serve a Modbus TCP slave", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return slave.Run(cmd.Context(), address, writes) },
	}
	cmd.Flags().StringVar(&address, "listen", "127.0.0.1:502", "host and port")
	cmd.Flags().StringVar(&writes, "writes", "/dev/stdout", "file that each write of a master is appended to, as a line of JSON")
	return cmd
}

func logger() (*zap.Logger, error) {
	cfg := zap.NewProductionConfig()
	cfg.Sampling = nil
	log, err := cfg.Build()
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return log, nil
}
