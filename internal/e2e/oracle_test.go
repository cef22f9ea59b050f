package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/oracle"
	"github.com/petiole-io/petiole/streams"
)

type content = oracle.Content

// wanted returns the site's desired state according to the API server.
func wanted(ctx context.Context, site string) (content, error) {
	return oracle.Desired(ctx, lab.Dynamic, site)
}

// stored reads the objects of a site in a stream of DESIRED's form: the hub's or the site's own.
func stored(ctx context.Context, site *rig.Site, name string) (content, error) {
	js := lab.JS
	if name == streams.SiteDesired {
		js = site.JS
	}
	// A request that is sent while hub or leaf start may go into the old connection; the measured
	// time should not include waiting for an answer that cannot come.
	open, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	stream, err := js.Stream(open, name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	out := content{}
	err = rig.EachMessage(ctx, stream, streams.DesiredFilter(site.Name), 1, func(m rig.StoredMessage) error {
		if streams.IsPart(m.Subject) {
			return nil
		}
		_, msg, err := streams.Load(ctx, stream, m.Subject, m.Header, m.Data)
		if err != nil {
			return err
		}
		if msg.Op == streams.OpDelete {
			return nil
		}
		var object map[string]any
		if err := json.Unmarshal(msg.Object, &object); err != nil {
			return err
		}
		out[msg.Ref] = oracle.Canonical(object)
		return nil
	})
	return out, err
}

// converged returns nil when the site's own stream holds exactly its desired state.
func converged(site *rig.Site) func(context.Context) error {
	return func(ctx context.Context) error {
		api, err := wanted(ctx, site.Name)
		if err != nil {
			return err
		}
		has, err := stored(ctx, site, streams.SiteDesired)
		if err != nil {
			return err
		}
		if diff := api.ChangedSince(has); len(diff) > 0 {
			return fmt.Errorf("%s differs from the API in %d objects: %s", site.Name, len(diff), oracle.Shorten(diff))
		}
		return nil
	}
}
