package desired

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// onDisk reports whether a text is in the hub's files.
func (p *publishing) onDisk(text string) (found bool) {
	p.t.Helper()
	ignoreMissing := func(err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	err := filepath.WalkDir(p.store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, []byte(text))
		return ignoreMissing(err)
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return found
}

// A Secret that is deleted, or that a site no longer needs, is on the hub's disk no longer when its
// tombstone is published.
func TestDeletedSecretsLeaveTheHubsDisk(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(1)
	secrets := map[kube.Key]string{}
	sources := []any{}
	for name, size := range map[string]int{"small": 1, "parts": 3 * streams.PartBytes, "unused": 1} {
		k := kube.CoreKey("secrets", "default", name)
		secrets[k] = "classified-" + name + "-"
		p.set(k, map[string]any{"data": map[string]any{"v": strings.Repeat(secrets[k], 1+size/10)}})
		sources = append(sources, map[string]any{"secret": map[string]any{"name": name}})
	}
	pod := kube.CoreKey("pods", "default", "reader")
	mount := func(sources []any) {
		p.set(pod, map[string]any{"spec": map[string]any{"nodeName": "a1", "volumes": []any{map[string]any{"name": "v", "projected": map[string]any{"sources": sources}}}}})
	}
	mount(sources)
	for k, text := range secrets {
		p.on(k.Ref(""), streams.OpPut, "uid-"+k.Name)
		if !p.onDisk(text) {
			t.Fatalf("%s is not on the disk; the test proves nothing", k.Name)
		}
	}
	mount(sources[:0])
	for k := range secrets {
		if k.Name != "unused" {
			p.vanish(k)
		}
	}
	for k, text := range secrets {
		p.on(k.Ref(""), streams.OpDelete, "uid-"+k.Name)
		p.await("the parts purged", p.idle)
		if p.onDisk(text) {
			t.Errorf("%s is on the disk after its tombstone was published", k.Name)
		}
	}
	k := kube.CoreKey("secrets", "default", "small")
	p.set(k, map[string]any{"data": map[string]any{"v": "again"}})
	mount([]any{map[string]any{"secret": map[string]any{"name": k.Name}}})
	p.on(k.Ref(""), streams.OpPut, "uid-small")
	p.await("nothing left", p.idle)
}
