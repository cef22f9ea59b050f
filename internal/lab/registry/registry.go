// Package registry serves the lab's images: an OCI registry whose content is built from
// the machine's static busybox, because a lab must not need the internet to start pods.
//
// It keeps images in memory and creates them again at each start; the same busybox gives
// the same digests.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"go.uber.org/zap"
)

// Run serves the images at address until ctx ends.
func Run(ctx context.Context, address, busybox string, log *zap.Logger) error {
	images, err := images(busybox)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for images: %w", err)
	}
	server := &http.Server{Handler: registry.New(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	for tag, image := range images {
		if err := Push(ctx, address, tag, image); err != nil {
			if ctx.Err() != nil {
				return server.Close()
			}
			return errors.Join(fmt.Errorf("push %s: %w", tag, err), server.Close())
		}
		log.Info("image ready", zap.String("image", address+"/"+tag))
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve images: %w", err)
	case <-ctx.Done():
		return server.Close()
	}
}

// Probe returns nil when every image can be pulled from the registry at address.
func Probe(ctx context.Context, address string) error {
	for name := range commands {
		repository, version, _ := strings.Cut(name, ":")
		url := "http://" + address + "/v2/" + repository + "/manifests/" + version
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("request image %s: %w", name, err)
		}
		if err := answer.Body.Close(); err != nil {
			return fmt.Errorf("request image %s: %w", name, err)
		}
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("request image %s: %s", name, answer.Status)
		}
	}
	return nil
}
