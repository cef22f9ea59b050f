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
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("create image layer: %w", err)
	}
	layer, err := Layer(root(binary))
	if err != nil {
		return nil, fmt.Errorf("create image layer: %w", err)
	}
	images := map[string]v1.Image{}
	for name, command := range commands {
		config := v1.Config{Cmd: command, Env: []string{"PATH=/bin"}, WorkingDir: "/"}
		if images[name], err = Image(config, layer); err != nil {
			return nil, fmt.Errorf("create image %s: %w", name, err)
		}
	}
	return images, nil
}

// root returns the files of the lab's images.
func root(busybox []byte) []File {
	files := []File{
		{Name: "bin/", Kind: tar.TypeDir, Mode: 0o755},
		{Name: "etc/", Kind: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Kind: tar.TypeDir, Mode: 0o1777},
		{Name: "root/", Kind: tar.TypeDir, Mode: 0o700},
		{Name: "www/", Kind: tar.TypeDir, Mode: 0o755},
		{Name: "bin/busybox", Kind: tar.TypeReg, Data: busybox, Mode: 0o755},
		{Name: "etc/passwd", Kind: tar.TypeReg, Data: []byte(passwd), Mode: 0o644},
		{Name: "etc/group", Kind: tar.TypeReg, Data: []byte(group), Mode: 0o644},
		{Name: "www/index.html", Kind: tar.TypeReg, Data: []byte("petiole\n"), Mode: 0o644},
	}
	for a := range strings.FieldsSeq(applets) {
		files = append(files, File{Name: "bin/" + a, Kind: tar.TypeSymlink, Link: "busybox", Mode: 0o777})
	}
	return files
}

// File is a file of an image, owned by root.
type File struct {
	// Name is relative to the root; that of a folder ends in a slash.
	Name string
	// Kind is a type flag of archive/tar.
	Kind byte
	// Link is the target of a symbolic link.
	Link string
	Data []byte
	Mode int64
}

// Layer returns a layer that has the files in this order. The same files give the same digest.
func Layer(files []File) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{Name: f.Name, Typeflag: f.Kind, Linkname: f.Link, Size: int64(len(f.Data)), Mode: f.Mode})
		if err != nil {
			return nil, fmt.Errorf("add %s: %w", f.Name, err)
		}
		if _, err = w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("add %s: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

// Image returns an image of these layers for this machine.
func Image(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = runtime.GOARCH, "linux", config
	return mutate.ConfigFile(image, file)
}
