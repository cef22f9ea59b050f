package e2e

import (
	"archive/tar"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/host"
	labregistry "github.com/petiole-io/petiole/internal/lab/registry"
)

// busyboxImage returns an image whose content is different for each name.
func busyboxImage(t *testing.T, name string) v1.Image {
	t.Helper()
	busybox := got[[]byte](t)(os.ReadFile(host.Busybox))
	return imageOf(t, v1.Config{Cmd: []string{"/bin/sleep", "infinity"}, Env: []string{"PATH=/bin"}},
		labregistry.File{Name: "bin/busybox", Kind: tar.TypeReg, Data: busybox, Mode: 0o755},
		labregistry.File{Name: "bin/sh", Kind: tar.TypeSymlink, Link: "busybox", Mode: 0o777},
		labregistry.File{Name: "bin/sleep", Kind: tar.TypeSymlink, Link: "busybox", Mode: 0o777},
		labregistry.File{Name: "name", Kind: tar.TypeReg, Data: []byte(name), Mode: 0o644})
}

// imageOf returns an image with these files.
func imageOf(t *testing.T, config v1.Config, files ...labregistry.File) v1.Image {
	t.Helper()
	layer := got[v1.Layer](t)(labregistry.Layer(files))
	return got[v1.Image](t)(labregistry.Image(config, layer))
}

// push uploads an image to the lab's registry and returns its reference.
func push(t *testing.T, name string, image v1.Image) string {
	t.Helper()
	tag := "e2e/" + name + ":1"
	must(t, labregistry.Push(t.Context(), rig.Registry, tag, image))
	return rig.Registry + "/" + tag
}
