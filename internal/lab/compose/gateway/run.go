package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/internal/lab/crio"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/render"
)

const (
	assets      = "/usr/share/petiole"
	leafYAML    = "/etc/petiole/leaf.yaml"
	kubeletYAML = "/etc/petiole/kubelet.yaml"
	// joinState is written by `leaf join`.
	joinState = "/etc/petiole/join.json"

	// images is the registry in the samples, that of the lab.
	images = "10.98.0.1:5000"

	runtimeTimeout = time.Minute
	stopGrace      = 20 * time.Second
)

// kubelet is added to what `leaf join` writes: a disk of a developer is fuller than one of a
// gateway, and the container's cgroup is bounded by Docker.
const kubelet = `# Added for a gateway in a container.
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
evictionHard:
  memory.available: 50Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
`

// gateway holds the arguments.
type gateway struct{ url, token, web, images, slave string }

// run blocks until ctx ends, or one of the programs does.
func (g gateway) run(ctx context.Context) error {
	runtime, err := g.configureRuntime()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveSlave(ctx, g.slave) })
	group.Go(func() error { return daemon(ctx, "crio", runtime.Args()...) })
	group.Go(func() error {
		if err := await(ctx, runtime); err != nil {
			return err
		}
		if err := g.join(ctx); err != nil {
			return err
		}
		return daemon(ctx, "leaf", "--config", leafYAML)
	})
	return group.Wait()
}

// configureRuntime writes the configuration of CRI-O.
func (g gateway) configureRuntime() (crio.Config, error) {
	c := crio.Config{
		Site: "gateway", StateDir: "/var/lib/crio", RunDir: "/run/crio", PodSubnet: "10.98.1.0/24", Registry: images,
		Conmon: host.Conmon, Pinns: "/usr/bin/pinns", Runtime: host.Runc, CNIPlugins: host.CNIPlugins,
		StorageDriver: "overlay", PolicyFile: filepath.Join(assets, "deploy/lab/policy.json"),
	}
	wrap, err := host.NeedsWrapper()
	if err != nil {
		return c, err
	}
	if wrap {
		c.Runtime = "/usr/bin/ociwrap"
	}
	registries := fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", images, g.images)
	if err := render.Write("/etc/containers/registries.conf", []byte(registries), 0o644); err != nil {
		return c, fmt.Errorf("write registries of CRI-O: %w", err)
	}
	return c, c.Write(filepath.Join(assets, "deploy/lab"))
}

// await blocks until CRI-O is ready.
func await(ctx context.Context, c crio.Config) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	for {
		err := c.Probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("CRI-O is not ready: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// joined reports whether `leaf join` was complete before. Then it would only wait for the hub, which
// may be away.
func joined() (bool, error) {
	data, err := os.ReadFile(joinState)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the state of the join: %w", err)
	}
	var state struct {
		Joined string `json:"joined"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return false, fmt.Errorf("decode %s: %w", joinState, err)
	}
	return state.Joined != "", nil
}

// join makes the container a gateway, unless it is one.
func (g gateway) join(ctx context.Context) error {
	switch done, err := joined(); {
	case err != nil:
		return err
	case done:
		return g.configure()
	}
	token, err := os.ReadFile(g.token)
	if err != nil {
		return fmt.Errorf("read the join token: %w", err)
	}
	cmd := exec.CommandContext(ctx, "leaf", "join", g.url, "-", "--no-start", "--local-clients")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(token), os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("leaf join: %w", err)
	}
	return g.configure()
}

// configure adds to what `leaf join` has written what a gateway in a container needs.
func (g gateway) configure() error {
	return errors.Join(g.configureMetrics(), configureKubelet())
}

// configureMetrics has the leaf serve its metrics in the network of the site, too.
func (g gateway) configureMetrics() error {
	config, err := os.ReadFile(leafYAML)
	if err != nil {
		return fmt.Errorf("read the configuration of the leaf: %w", err)
	}
	changed, err := withMetrics(string(config), g.web)
	if err != nil {
		return err
	}
	if err := render.Secret(leafYAML, []byte(changed)); err != nil {
		return fmt.Errorf("write the configuration of the leaf: %w", err)
	}
	return nil
}

// withMetrics returns a leaf.yaml that serves the metrics at all addresses, as a web configuration
// file says, of the one that `leaf join` has written.
func withMetrics(config, web string) (string, error) {
	file := "\n  webConfigFile: " + web
	if strings.Contains(config, file) {
		return config, nil
	}
	for _, r := range []struct{ from, to string }{
		{"\n  listen: 127.0.0.1:10443", "\n  listen: 0.0.0.0:10443"},
		{"\n  webConfigFile: \"\"", file},
	} {
		if strings.Count(config, r.from) != 1 {
			return "", fmt.Errorf("%s does not have %q once", leafYAML, r.from)
		}
		config = strings.Replace(config, r.from, r.to, 1)
	}
	return config, nil
}

func configureKubelet() error {
	config, err := os.ReadFile(kubeletYAML)
	if err != nil {
		return fmt.Errorf("read the configuration of the kubelet: %w", err)
	}
	if bytes.Contains(config, []byte(kubelet)) {
		return nil
	}
	if err := render.Secret(kubeletYAML, append(config, kubelet...)); err != nil {
		return fmt.Errorf("write the configuration of the kubelet: %w", err)
	}
	return nil
}

// daemon runs a program until ctx ends. That it ends before is an error.
func daemon(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return fmt.Errorf("%s has ended by itself", name)
	}
	return fmt.Errorf("%s: %w", name, err)
}
