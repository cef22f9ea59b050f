// Package crio prepares one CRI-O per site of the lab: its configuration, its CNI
// network, and the emptying of the folders that a power cut empties.
//
// It starts nothing: the daemon is the lab's.
package crio

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/petiole-io/petiole/internal/lab/mounts"
	"github.com/petiole-io/petiole/internal/lab/render"
)

// Config holds the values of the templates in deploy/lab. All paths are absolute.
type Config struct {
	Site string
	// StateDir is on disk; a reboot empties RunDir.
	StateDir, RunDir string
	// PodSubnet is the site's pod network.
	PodSubnet string
	// Registry is the host:port of the lab's registry.
	Registry string
	// Conmon, Pinns, Runtime and CNIPlugins are the programs.
	Conmon, Pinns, Runtime, CNIPlugins string
	// StorageDriver is "overlay", or "vfs" where overlay cannot be stacked.
	StorageDriver string
	// PolicyFile is the signature policy.
	PolicyFile string
}

// CNIDir returns the folder of the CNI configuration.
func (c Config) CNIDir() string { return filepath.Join(c.StateDir, "net.d") }

// Socket returns the CRI endpoint.
func (c Config) Socket() string { return filepath.Join(c.RunDir, "crio.sock") }

// ConfigFile returns the file of CRI-O's configuration.
func (c Config) ConfigFile() string { return filepath.Join(c.StateDir, "crio.conf") }

// Args returns arguments that start CRI-O without the machine's own configuration.
func (c Config) Args() []string { return []string{"--config", c.ConfigFile(), "--config-dir", ""} }

// Write renders the configuration from the templates in dir.
func (c Config) Write(dir string) error { return c.WriteTo(dir, "/") }

// WriteTo is Write for a machine whose root is at the path root.
func (c Config) WriteTo(dir, root string) error {
	for _, d := range []string{c.RunDir, c.StateDir} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o711); err != nil {
			return fmt.Errorf("create folders of CRI-O: %w", err)
		}
	}
	if err := render.File(filepath.Join(dir, "crio.conf.tmpl"), filepath.Join(root, c.ConfigFile()), c); err != nil {
		return err
	}
	return render.File(filepath.Join(dir, "cni.conflist.tmpl"), filepath.Join(root, c.CNIDir(), "petiole.conflist"), c)
}

// Probe returns nil when CRI-O answers and its network is ready.
func (c Config) Probe(ctx context.Context) error {
	// gRPC would log each attempt at a socket that is not there yet.
	socket, err := net.Dial("unix", c.Socket())
	if err != nil {
		return fmt.Errorf("connect to CRI-O: %w", err)
	}
	if err := socket.Close(); err != nil {
		return fmt.Errorf("connect to CRI-O: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+c.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to CRI-O: %w", err)
	}
	defer conn.Close()
	status, err := runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("query CRI-O: %w", err)
	}
	for _, cond := range status.GetStatus().GetConditions() {
		if !cond.Status {
			return fmt.Errorf("%s is false: %s", cond.Type, cond.Message)
		}
	}
	return nil
}

// PowerCut removes what a real machine keeps in memory: mounts, and the run
// directory. Every process of the site must have been killed.
func (c Config) PowerCut(alsoUnmount ...string) error {
	if err := mounts.Detach(append(alsoUnmount, c.StateDir, c.RunDir)...); err != nil {
		return err
	}
	if err := os.RemoveAll(c.RunDir); err != nil {
		return fmt.Errorf("empty the run directory of CRI-O: %w", err)
	}
	return nil
}
