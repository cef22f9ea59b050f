package desired

import (
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/kube"
)

// encodedBytes bounds the bodies in each of the two generations of an encodeCache.
const encodedBytes = 8 << 20

// encodeCache is an Objects that also encodes: each version of an object once, and not once
// for each site that needs it. It holds the encodings that were used last in two generations:
// when the newer one is full, it becomes the older one. Create it with newEncodeCache. It is safe
// for concurrent use.
type encodeCache struct {
	Objects
	encode func(kube.Key, *unstructured.Unstructured) (data []byte, hash string, err error)

	mu           sync.Mutex
	newer, older map[kube.Key]*encoding
	// bytes is the size of the bodies in newer, including those of replaced versions.
	bytes int
}

// encoding is the result of encodeObject for one version of an object.
type encoding struct {
	object *unstructured.Unstructured
	once   sync.Once
	data   []byte
	hash   string
	err    error
}

func newEncodeCache(objects Objects) *encodeCache {
	return &encodeCache{Objects: objects, encode: encodeObject, newer: map[kube.Key]*encoding{}}
}

// encoded returns what encodeObject returns for an object of the Objects, in which another
// version is another pointer. The caller must not change data.
func (c *encodeCache) encoded(k kube.Key, o *unstructured.Unstructured) (data []byte, hash string, err error) {
	c.mu.Lock()
	e, recent := c.newer[k]
	if recent = recent && e.object == o; !recent {
		if e = c.older[k]; e == nil || e.object != o {
			e = &encoding{object: o}
		}
		c.newer[k] = e
	}
	c.mu.Unlock()
	e.once.Do(func() { e.data, e.hash, e.err = c.encode(k, o) })
	if !recent {
		c.added(len(e.data))
	}
	return e.data, e.hash, e.err
}

// added counts the bytes of an encoding that was put into the newer generation.
func (c *encodeCache) added(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes += bytes; c.bytes > encodedBytes {
		c.newer, c.older, c.bytes = map[kube.Key]*encoding{}, c.newer, 0
	}
}
