package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/lab"
	"github.com/petiole-io/petiole/internal/lab/controlplane"
	"github.com/petiole-io/petiole/internal/lab/host"
	images "github.com/petiole-io/petiole/internal/lab/registry"
)

func controlPlane() *cobra.Command {
	return &cobra.Command{
		Use: "controlplane", Short: "Run etcd and the Kubernetes control plane in this process", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			log, err := logger()
			if err != nil {
				return err
			}
			c, err := controlplane.New(controlplane.Config{
				Dir: l.ControlPlaneDir(), APIPort: lab.APIPort, EtcdPort: lab.EtcdPort, EtcdPeerPort: lab.EtcdPeerPort,
				AdvertiseAddress: lab.AdvertiseAddress,
			}, log)
			if err != nil {
				return err
			}
			return c.Run(cmd.Context())
		},
	}
}

func registry() *cobra.Command {
	return &cobra.Command{
		Use: "registry", Short: "Serve the lab's images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger()
			if err != nil {
				return err
			}
			return images.Run(cmd.Context(), lab.ImagesAddress, host.Busybox, log)
		},
	}
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
