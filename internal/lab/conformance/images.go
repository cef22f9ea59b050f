package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	upstream "k8s.io/kubernetes/test/utils/image"

	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/lab/registry"
)

// Where upstream's images come from, and where they are in the lab's registry.
const (
	upstreamRegistry = "registry.k8s.io/"
	labRepository    = "conformance"
)

// The image that the registry in agnhost has for the specs that pull from it.
const (
	servedImage = "pause"
	servedTag   = "testing"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
	group  = "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n"
	// release is in place of the one of upstream's images, whose base is Alpine Linux: a spec reads it.
	release  = "NAME=\"Alpine Linux\"\nID=alpine\n"
	nsswitch = "hosts: files dns\n"
	// shell is sh: busybox, whose messages a spec compares. Debian's drops the variables of the
	// environment whose names have a dash, which others read with `sh -c env`; bash keeps them.
	shell = `#!/bin/bash
[ "$*" = "-c env" ] && exec env
exec -a "$0" /bin/busybox "$@"
`
)

// images creates what upstream's specs run, by repository and tag of the lab's registry. The
// programs are upstream's, in bin; base is below them, because no image can be pulled.
func images(bin string, base []registry.File) (map[string]v1.Image, error) {
	programs := map[string][]byte{}
	for _, name := range []string{"agnhost", "pause", "nonewprivs", "regression-issue-74839"} {
		var err error
		if programs[name], err = os.ReadFile(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("read a program of the images: %w (`go tool task build PROGRAMS=%s` builds it)", err, name)
		}
	}
	layer, err := registry.Layer(base)
	if err != nil {
		return nil, fmt.Errorf("create the base of the images: %w", err)
	}
	b := imageBuilder{base: layer, images: map[string]v1.Image{}}
	pause := b.add(upstream.Pause, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}, false, program("pause", programs["pause"], 0o755))
	b.add(upstream.BusyBox, v1.Config{Cmd: []string{"sh"}}, true)
	b.add(upstream.NonRoot, v1.Config{Cmd: []string{"sh"}, User: "1234"}, true)
	b.add(upstream.Nonewprivs, v1.Config{Cmd: []string{"nnp"}}, true, program("usr/local/bin/nnp", programs["nonewprivs"], 0o4755))
	b.add(upstream.RegressionIssue74839, v1.Config{Entrypoint: []string{"/regression-issue-74839"}}, false,
		program("regression-issue-74839", programs["regression-issue-74839"], 0o755))
	if b.err != nil {
		return nil, b.err
	}
	served, err := servedFiles(pause)
	if err != nil {
		return nil, fmt.Errorf("create the registry in agnhost: %w", err)
	}
	agnhost := append([]registry.File{
		program("agnhost", programs["agnhost"], 0o755),
		bashAsShell,
		{Name: "agnhost-2", Kind: tar.TypeSymlink, Link: "agnhost", Mode: 0o777},
		{Name: "uploads/", Kind: tar.TypeDir, Mode: 0o755},
	}, served...)
	for _, id := range []upstream.ImageID{upstream.Agnhost, upstream.AgnhostPrev} {
		b.add(id, v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}, true, agnhost...)
	}
	b.add(upstream.GlibcDnsTesting, v1.Config{Cmd: []string{"sh"}}, true, bashAsShell)
	// A spec mounts it, and reads which picture it has.
	b.add(upstream.Kitten, v1.Config{Cmd: []string{"sh"}}, true, program("data.json", []byte(`{"image": "kitten.jpg"}`+"\n"), 0o644))
	// The specs want a web server on port 80.
	for _, id := range []upstream.ImageID{upstream.Nginx, upstream.NginxNew} {
		b.add(id, v1.Config{Cmd: []string{"/agnhost", "test-webserver"}}, true, agnhost...)
	}
	return b.images, b.err
}

// bashAsShell is for images whose specs use the programs of this machine: Debian's busybox as sh
// runs its own in their place.
var bashAsShell = registry.File{Name: "bin/sh", Kind: tar.TypeSymlink, Link: "bash", Mode: 0o777}

// imageBuilder creates images until one fails.
type imageBuilder struct {
	base   v1.Layer
	images map[string]v1.Image
	err    error
}

// add creates an image of the files, on the base layer if onBase is set.
func (b *imageBuilder) add(id upstream.ImageID, config v1.Config, onBase bool, files ...registry.File) v1.Image {
	if b.err != nil {
		return nil
	}
	tag := labTag(upstream.GetE2EImage(id))
	var layers []v1.Layer
	if onBase {
		layers = append(layers, b.base)
	}
	if len(files) > 0 {
		layer, err := registry.Layer(files)
		if err != nil {
			b.err = fmt.Errorf("create image %s: %w", tag, err)
			return nil
		}
		layers = append(layers, layer)
	}
	config.Env, config.WorkingDir = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
	image, err := registry.Image(config, layers...)
	if err != nil {
		b.err = fmt.Errorf("create image %s: %w", tag, err)
		return nil
	}
	b.images[tag] = image
	return image
}

// labTag returns the repository and tag in the lab's registry of one of upstream's images.
func labTag(image string) string {
	return labRepository + "/" + strings.TrimPrefix(image, upstreamRegistry)
}

// repositories returns the content of KUBE_TEST_REPO_LIST, by which upstream's suite finds the
// images in the registry at address.
func repositories(address string) ([]byte, error) {
	base := address + "/" + labRepository
	return json.Marshal(map[string]string{ // JSON is YAML
		"promoterE2eRegistry": base + "/e2e-test-images", "gcRegistry": base, "gcEtcdRegistry": base,
	})
}

// baseFiles are the files below most images: busybox with all its commands, and bash, curl,
// hostname and nc of this machine.
func baseFiles() ([]registry.File, error) {
	busybox, err := os.ReadFile(host.Busybox)
	if err != nil {
		return nil, err
	}
	var files []registry.File
	for _, dir := range []string{"bin/", "etc/", "home/", "home/user/", "usr/", "usr/bin/", "usr/local/", "usr/local/bin/", "var/"} {
		files = append(files, registry.File{Name: dir, Kind: tar.TypeDir, Mode: 0o755})
	}
	files = append(
		files,
		registry.File{Name: "tmp/", Kind: tar.TypeDir, Mode: 0o1777},
		registry.File{Name: "root/", Kind: tar.TypeDir, Mode: 0o700},
		program("bin/busybox", busybox, 0o755),
		registry.File{Name: "etc/passwd", Kind: tar.TypeReg, Data: []byte(passwd), Mode: 0o644},
		registry.File{Name: "etc/group", Kind: tar.TypeReg, Data: []byte(group), Mode: 0o644},
		registry.File{Name: "etc/os-release", Kind: tar.TypeReg, Data: []byte(release), Mode: 0o644},
		registry.File{Name: "etc/nsswitch.conf", Kind: tar.TypeReg, Data: []byte(nsswitch), Mode: 0o644},
		program("bin/sh", []byte(shell), 0o755),
	)
	applets, err := exec.Command(host.Busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the commands of busybox: %w", err)
	}
	var links []registry.File
	for a := range strings.FieldsSeq(string(applets)) {
		links = append(links, registry.File{Name: "bin/" + a, Kind: tar.TypeSymlink, Link: "busybox", Mode: 0o777})
	}
	dynamic, err := withLibraries(map[string]string{
		"bin/bash": "/bin/bash", "bin/hostname": "/bin/hostname", "bin/nc": host.Netcat, "usr/bin/curl": "/usr/bin/curl",
	})
	return once(slices.Concat(files, dynamic, links)), err
}

// certificateFiles returns the certificate with which agnhost serves HTTPS, and its key. They are
// kept in dir.
func certificateFiles(dir string) ([]registry.File, error) {
	ca, err := pki.NewAuthority(dir, "agnhost-ca")
	if err != nil {
		return nil, err
	}
	pair, err := ca.Issue(dir, "localhost", pki.Subject{Name: "localhost", Hosts: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		return nil, err
	}
	var files []registry.File
	for name, path := range map[string]string{"localhost.crt": pair.CertFile, "localhost.key": pair.KeyFile} {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of agnhost: %w", err)
		}
		files = append(files, program(name, data, 0o644))
	}
	return files, nil
}

// once returns the files without those whose name came before: CRI-O unpacks no layer that has a
// name twice.
func once(files []registry.File) []registry.File {
	seen := map[string]bool{}
	return slices.DeleteFunc(files, func(f registry.File) bool {
		again := seen[f.Name]
		seen[f.Name] = true
		return again
	})
}

// withLibraries returns dynamic programs of this machine, by their names in the image, and the
// libraries that they load.
func withLibraries(programs map[string]string) ([]registry.File, error) {
	from := map[string]string{}
	for name, path := range programs {
		from[name] = path
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			return nil, fmt.Errorf("list the libraries of %s: %w", path, err)
		}
		for _, library := range libraries(string(out)) {
			from[strings.TrimPrefix(library, "/")] = library
		}
	}
	var files []registry.File
	for _, name := range sorted(from) {
		data, err := os.ReadFile(from[name])
		if err != nil {
			return nil, err
		}
		files = append(files, registry.File{Name: filepath.Dir(name) + "/", Kind: tar.TypeDir, Mode: 0o755}, program(name, data, 0o755))
	}
	return files, nil
}

// libraries returns the paths in the output of ldd.
func libraries(out string) []string {
	var paths []string
	for line := range strings.Lines(out) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
	}
	return paths
}

func program(name string, data []byte, mode int64) registry.File {
	return registry.File{Name: name, Kind: tar.TypeReg, Data: data, Mode: mode}
}

// servedFiles returns the files of agnhost's fake-registry-server with one image.
func servedFiles(image v1.Image) ([]registry.File, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	configDigest, err := image.ConfigName()
	if err != nil {
		return nil, err
	}
	base := "var/registry/" + servedImage
	files := []registry.File{
		program(base+"/manifests/"+servedTag, []byte(digest.String()+"\n"), 0o644),
		program(served(base+"/manifests", digest), manifest, 0o644),
		program(served(base+"/blobs", configDigest), config, 0o644),
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		data, digest, err := compressed(l)
		if err != nil {
			return nil, err
		}
		files = append(files, program(served(base+"/blobs", digest), data, 0o644))
	}
	return files, nil
}

func compressed(l v1.Layer) ([]byte, v1.Hash, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, digest, err
	}
	r, err := l.Compressed()
	if err != nil {
		return nil, digest, err
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, r)
	return b.Bytes(), digest, err
}

// served returns the path of a blob in the layout of Docker's registry, which
// fake-registry-server expects.
func served(base string, digest v1.Hash) string {
	return filepath.Join(base, digest.Algorithm, digest.Hex[:2], digest.Hex, "data")
}

// forget removes the images from a site's runtime, which would use those of an earlier run: the
// tags are upstream's, whatever is in the images.
func forget(ctx context.Context, socket, address string, images map[string]v1.Image) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to CRI-O: %w", err)
	}
	defer conn.Close()
	client := runtimeapi.NewImageServiceClient(conn)
	for _, tag := range sorted(images) {
		image := &runtimeapi.ImageSpec{Image: address + "/" + tag}
		if _, err := client.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: image}); err != nil {
			return fmt.Errorf("remove image %s from the site: %w", image.Image, err)
		}
	}
	return nil
}

// push uploads the images to the registry at address.
func push(ctx context.Context, address string, images map[string]v1.Image) error {
	for _, tag := range sorted(images) {
		if err := registry.Push(ctx, address, tag, images[tag]); err != nil {
			return fmt.Errorf("push %s: %w", tag, err)
		}
	}
	return nil
}
