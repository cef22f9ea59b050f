package registry

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// applets are the busybox commands that the images have links for.
const applets = "sh ash cat cp date dd echo env false grep head hostname httpd id ip kill ls mkdir mv nc nslookup ping " +
	"printf ps pwd rm sed seq sha256sum sleep sort stat tail tar tee test touch true tr uname vi wc wget which"

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
	group  = "root:x:0:\nnogroup:x:65534:\n"
)

// commands are the commands of the images, by repository and tag.
var commands = map[string][]string{
	"petiole/sleeper:1": {"/bin/sleep", "infinity"},
	"petiole/web:1":     {"/bin/httpd", "-f", "-v", "-p", "8080", "-h", "/www"},
}

// images are the lab's images by repository and tag.
func images(busybox string) (map[string]v1.Image, error) {
	layer, err := rootLayer(busybox)
	if err != nil {
		return nil, fmt.Errorf("create image layer: %w", err)
	}
	images := map[string]v1.Image{}
	for name, command := range commands {
		image, err := mutate.AppendLayers(empty.Image, layer)
		if err != nil {
			return nil, fmt.Errorf("create image %s: %w", name, err)
		}
		file, err := image.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("create image %s: %w", name, err)
		}
		file = file.DeepCopy()
		file.Architecture, file.OS = runtime.GOARCH, "linux"
		file.Config = v1.Config{Cmd: command, Env: []string{"PATH=/bin"}, WorkingDir: "/"}
		if images[name], err = mutate.ConfigFile(image, file); err != nil {
			return nil, fmt.Errorf("create image %s: %w", name, err)
		}
	}
	return images, nil
}

func rootLayer(busybox string) (v1.Layer, error) {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	entries := []entry{
		{"bin/", tar.TypeDir, "", nil, 0o755},
		{"etc/", tar.TypeDir, "", nil, 0o755},
		{"tmp/", tar.TypeDir, "", nil, 0o1777},
		{"root/", tar.TypeDir, "", nil, 0o700},
		{"www/", tar.TypeDir, "", nil, 0o755},
		{"bin/busybox", tar.TypeReg, "", binary, 0o755},
		{"etc/passwd", tar.TypeReg, "", []byte(passwd), 0o644},
		{"etc/group", tar.TypeReg, "", []byte(group), 0o644},
		{"www/index.html", tar.TypeReg, "", []byte("petiole\n"), 0o644},
	}
	for a := range strings.FieldsSeq(applets) {
		entries = append(entries, entry{"bin/" + a, tar.TypeSymlink, "busybox", nil, 0o777})
	}
	for _, e := range entries {
		if err := e.write(w); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

type entry struct {
	name string
	kind byte
	link string
	data []byte
	mode int64
}

func (e entry) write(w *tar.Writer) error {
	err := w.WriteHeader(&tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.data)), Mode: e.mode})
	if err != nil {
		return err
	}
	_, err = w.Write(e.data)
	return err
}
