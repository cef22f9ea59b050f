package desired

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/kube"
)

func configMapOf(bytes int) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "kube-root-ca.crt", "namespace": "default", "uid": "u", "resourceVersion": "7"},
		"data": map[string]any{"ca.crt": strings.Repeat("x", bytes)},
	}}
}

// countingCache returns a cache that counts how often it encodes.
func countingCache() (*encodeCache, *atomic.Int64) {
	c, n := newEncodeCache(nil), new(atomic.Int64)
	c.encode = func(k kube.Key, o *unstructured.Unstructured) ([]byte, string, error) {
		n.Add(1)
		return encodeObject(k, o)
	}
	return c, n
}

// Sites that need the same object, also at the same time, have it encoded once for each version.
func TestEncodesEachVersionOnce(t *testing.T) {
	t.Parallel()
	c, n := countingCache()
	k := kube.CoreKey("configmaps", "default", "kube-root-ca.crt")
	for version := range 3 {
		o := configMapOf(100 + version)
		data, hash, err := encodeObject(k, o)
		if err != nil {
			t.Fatal(err)
		}
		var sites sync.WaitGroup
		for range 100 {
			sites.Go(func() {
				if d, h, err := c.encoded(k, o); string(d) != string(data) || h != hash || err != nil {
					t.Errorf("version %d is encoded as %s, %s, %v", version, d, h, err)
				}
			})
		}
		sites.Wait()
		if got := n.Load(); got != int64(version)+1 {
			t.Errorf("%d versions were encoded %d times", version+1, got)
		}
	}
}

// The cache holds what is used, and no more than its bound.
func TestEncodeCacheIsBounded(t *testing.T) {
	t.Parallel()
	c, n := countingCache()
	used, o := kube.CoreKey("configmaps", "default", "used"), configMapOf(100)
	const size = 100 << 10
	for i := range 10 * encodedBytes / size {
		for k, o := range map[kube.Key]*unstructured.Unstructured{used: o, kube.CoreKey("configmaps", "default", fmt.Sprint(i)): configMapOf(size)} {
			if _, _, err := c.encoded(k, o); err != nil {
				t.Fatal(err)
			}
		}
		held := 0
		for _, generation := range []map[kube.Key]*encoding{c.newer, c.older} {
			for _, e := range generation {
				held += len(e.data)
			}
		}
		if held > 2*(encodedBytes+2*size) {
			t.Fatalf("the cache holds %d bytes", held)
		}
	}
	if got := n.Load(); got != 1+10*encodedBytes/size {
		t.Errorf("encoded %d times", got)
	}
}

// BenchmarkEncodeForSites encodes a change of an object that 1,000 sites need.
func BenchmarkEncodeForSites(b *testing.B) {
	k := kube.CoreKey("configmaps", "default", "kube-root-ca.crt")
	for name, encoder := range map[string]func() func(kube.Key, *unstructured.Unstructured) ([]byte, string, error){
		"per-site": func() func(kube.Key, *unstructured.Unstructured) ([]byte, string, error) { return encodeObject },
		"per-object": func() func(kube.Key, *unstructured.Unstructured) ([]byte, string, error) {
			return newEncodeCache(nil).encoded
		},
	} {
		b.Run(name, func(b *testing.B) {
			encode := encoder()
			b.ReportAllocs()
			for b.Loop() {
				o := configMapOf(1500)
				for range 1000 {
					if _, _, err := encode(k, o); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
