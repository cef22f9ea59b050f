package e2e

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	labregistry "github.com/petiole-io/petiole/internal/lab/registry"
)

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
