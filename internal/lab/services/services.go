// Package services gives the sites of a lab kube-proxy and CoreDNS: it makes their images of
// programs that were built here, because a lab must not need the internet, and applies the manifest
// that users apply, with those images. The lab calls it.
package services

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/registry"
	"github.com/petiole-io/petiole/internal/lab/render"
)

// Config configures Install. All fields are required.
type Config struct {
	// Programs is the folder of kube-proxy and coredns, Manifest the manifest.
	Programs, Manifest string
	// Registry is the host and port of the lab's registry.
	Registry string
	// Kubeconfig is that of an administrator.
	Kubeconfig string
	// Rendered is where the manifest with the lab's images is written.
	Rendered string
}

// image is one of the images of the manifest.
type image struct {
	name, program string
	// tools are programs of the host that it runs, with their libraries.
	tools []string
}

var images = []image{
	{name: "registry.k8s.io/kube-proxy:v1.37.2", program: "kube-proxy", tools: []string{"nft"}},
	{name: "registry.k8s.io/coredns/coredns:v1.15.0", program: "coredns"},
}

// protocols is /etc/protocols, as in upstream's image. Without it nft lists the keys of a map with
// numbers in place of names: a kube-proxy that starts where its table exists takes them for others,
// and deletes every Service from its maps.
const protocols = "tcp 6 TCP\nudp 17 UDP\nsctp 132 SCTP\n"

// Install pushes the images and applies the manifest. It does not wait for the pods.
func Install(ctx context.Context, cfg Config) error {
	manifest, err := os.ReadFile(cfg.Manifest)
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	for _, i := range images {
		if err := push(ctx, cfg, i); err != nil {
			return fmt.Errorf("image of %s: %w", i.program, err)
		}
		if !bytes.Contains(manifest, []byte(i.name)) {
			return fmt.Errorf("%s has no image %s", cfg.Manifest, i.name)
		}
	}
	manifest = bytes.ReplaceAll(manifest, []byte("registry.k8s.io/"), []byte(cfg.Registry+"/"))
	if err := render.Write(cfg.Rendered, manifest, 0o644); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	rest, err := cluster.Config(cfg.Kubeconfig)
	if err != nil {
		return err
	}
	applier, err := cluster.NewApplier(rest)
	if err != nil {
		return err
	}
	_, err = applier.Apply(ctx, cfg.Rendered)
	return err
}

func push(ctx context.Context, cfg Config, i image) error {
	program, err := os.ReadFile(filepath.Join(cfg.Programs, i.program))
	if err != nil {
		return fmt.Errorf("%w (`go tool task build PROGRAMS=\"kube-proxy coredns\"` builds it)", err)
	}
	files := []registry.File{
		{Name: "etc/", Kind: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Kind: tar.TypeDir, Mode: 0o1777},
		{Name: "etc/passwd", Kind: tar.TypeReg, Data: []byte("root:x:0:0:root:/root:/bin/false\n"), Mode: 0o644},
		{Name: "etc/protocols", Kind: tar.TypeReg, Data: []byte(protocols), Mode: 0o644},
	}
	for _, t := range i.tools {
		more, err := tool(ctx, t)
		if err != nil {
			return fmt.Errorf("%s of this machine: %w", t, err)
		}
		files = append(files, more...)
	}
	files = append(files, registry.File{Name: i.program, Kind: tar.TypeReg, Data: program, Mode: 0o755})
	layer, err := registry.Layer(files)
	if err != nil {
		return err
	}
	built, err := registry.Image(v1.Config{Entrypoint: []string{"/" + i.program}, Env: []string{"PATH=/:/usr/sbin:/usr/bin"}, WorkingDir: "/"}, layer)
	if err != nil {
		return err
	}
	return registry.Push(ctx, cfg.Registry, strings.TrimPrefix(i.name, "registry.k8s.io/"), built)
}

// tool returns a program of the host, in /usr/sbin, and the libraries that its loader names.
func tool(ctx context.Context, name string) ([]registry.File, error) {
	file, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "ldd", file).Output()
	if err != nil {
		return nil, fmt.Errorf("list its libraries: %w", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	files := []registry.File{{Name: "usr/sbin/" + name, Kind: tar.TypeReg, Data: data, Mode: 0o755}}
	for word := range strings.FieldsSeq(string(out)) {
		if !path.IsAbs(word) {
			continue
		}
		data, err := os.ReadFile(word)
		if err != nil {
			return nil, err
		}
		files = append(files, registry.File{Name: strings.TrimPrefix(word, "/"), Kind: tar.TypeReg, Data: data, Mode: 0o755})
	}
	return files, nil
}
