package hub

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/streams"
)

// Room is the room at the hub for the streams of all sites. nats-server reserves the bytes of each
// stream, so that a site's bound is room that it has, whatever the others do.
type Room struct {
	// Bytes is divided evenly among MaxSites sites; 0 stands for streams.DefaultSiteBytes each.
	Bytes int64
	// MaxSites is the number of sites that get streams, 0 for any number.
	MaxSites int
	// Replicas of each stream; default 1.
	Replicas int
}

// ErrTooManySites reports that a Site gets no streams because Room.MaxSites have theirs.
var ErrTooManySites = errors.New("too many sites")

// Limits returns the limits of a site: its share, or less if its Site says so.
func (r Room) Limits(site *unstructured.Unstructured) streams.SiteLimits {
	l := streams.SiteLimits{Bytes: streams.DefaultSiteBytes, Replicas: r.Replicas}
	if r.Bytes > 0 {
		l.Bytes = r.Bytes / int64(max(r.MaxSites, 1))
	}
	if site == nil {
		return l
	}
	// The API server has validated it; a value that is none stands for no wish.
	wish, _, _ := unstructured.NestedString(site.Object, "spec", "limits", "hubStorage")
	if q, err := resource.ParseQuantity(wish); err == nil && q.Value() >= streams.MinSiteBytes {
		l.Bytes = min(l.Bytes, q.Value())
	}
	return l
}

// TooMany returns the error for a site beyond MaxSites.
func (r Room) TooMany() error {
	return fmt.Errorf("%w: limits.maxSites of the bridge is %d; raise it, with limits.hubBytes, or delete a Site", ErrTooManySites, r.MaxSites)
}

// IsNoRoom reports whether the hub refused a stream because it cannot reserve its bytes.
func IsNoRoom(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == streams.CodeNoRoom
}
