package hub

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/streams"
)

func TestRoomIsDivided(t *testing.T) {
	t.Parallel()
	site := func(storage any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"limits": map[string]any{"hubStorage": storage}}}}
	}
	for name, c := range map[string]struct {
		room Room
		site *unstructured.Unstructured
		want int64
	}{
		"no room is configured":     {Room{}, nil, streams.DefaultSiteBytes},
		"an equal share":            {Room{Bytes: 8 << 30, MaxSites: 100}, site(nil), 8 << 30 / 100},
		"less, as the Site says":    {Room{Bytes: 8 << 30, MaxSites: 100}, site("40Mi"), 40 << 20},
		"not more":                  {Room{Bytes: 8 << 30, MaxSites: 100}, site("1Gi"), 8 << 30 / 100},
		"less than is useful":       {Room{Bytes: 8 << 30, MaxSites: 100}, site("1Ki"), 8 << 30 / 100},
		"no quantity":               {Room{Bytes: 8 << 30, MaxSites: 100}, site("much"), 8 << 30 / 100},
		"a field of another type":   {Room{Bytes: 8 << 30, MaxSites: 100}, site(int64(5)), 8 << 30 / 100},
		"no Site in the cache yet":  {Room{Bytes: 8 << 30, MaxSites: 100}, nil, 8 << 30 / 100},
		"a hub for ten thousand":    {Room{Bytes: 800 << 30, MaxSites: 10_000}, nil, 800 << 30 / 10_000},
		"a small hub, the defaults": {Room{Bytes: 2 << 30, MaxSites: 100}, nil, 2 << 30 / 100},
	} {
		if got := c.room.Limits(c.site).Bytes; got != c.want || got < streams.MinSiteBytes {
			t.Errorf("%s: %d bytes, want %d", name, got, c.want)
		}
	}
}
