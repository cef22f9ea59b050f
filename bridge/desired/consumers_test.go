package desired

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

func siteKey(name string) kube.Key {
	return kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: name}
}

// lost returns the objects that are in the cache but not in DESIRED.
func (p *publishing) lost() []string {
	p.mu.Lock()
	want := map[string]uint64{}
	for _, objects := range p.desired.sites {
		for _, entries := range objects {
			for subject, e := range entries {
				want[subject] = e.seq
			}
		}
	}
	p.mu.Unlock()
	var lost []string
	for subject, seq := range want {
		if msg, err := p.hub.Desired.GetLastMsgForSubject(p.t.Context(), subject); err != nil || msg.Sequence != seq {
			lost = append(lost, fmt.Sprintf("%s: %v", subject, err))
		}
	}
	return lost
}

// Sites that are deleted and created again during a round have everything, and those that stay
// deleted leave nothing behind.
func TestSitesMadeAgainHaveEverything(t *testing.T) {
	t.Parallel()
	const count = 100
	p := startPublishing(t)
	c := NewConsumers(p.Reconciler, hub.Room{})
	reconcile := func() map[string]*jetstream.ConsumerInfo {
		found, _, err := c.Reconcile(t.Context())
		if err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		return found
	}
	var sites []string
	for i := range count {
		sites = append(sites, fmt.Sprint("site-", i))
	}
	idle := func() bool {
		if p.changed.Len() > 0 {
			return false
		}
		for _, site := range sites {
			if !p.SiteIdle(site) {
				return false
			}
		}
		return true
	}
	objects := func(site string) (n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.desired.sites[site])
	}
	for _, site := range sites {
		p.set(siteKey(site), map[string]any{})
	}
	p.await("Sites seen", func() bool { return idle() && len(p.NodesBySite()) == count })
	if found := reconcile(); len(found) != count || len(c.ensured) != count {
		t.Fatalf("%d consumers, %d remembered, want %d", len(found), len(c.ensured), count)
	}
	// Nothing is published for them: only their consumers show that something is left.
	for _, site := range sites {
		p.vanish(siteKey(site))
	}
	p.await("deletions seen", func() bool { return idle() && len(p.NodesBySite()) == 0 })
	done := make(chan struct{})
	go func() { reconcile(); close(done) }()
	p.await("some are removed", func() bool {
		info, err := p.hub.Desired.Info(t.Context())
		return err == nil && info.State.Consumers < count
	})
	for _, site := range sites {
		p.set(kube.CoreKey("nodes", "", "n-"+site), map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.SiteLabel: site}}})
		p.set(siteKey(site), map[string]any{})
	}
	<-done
	p.await("published again", func() bool { return idle() && objects(sites[count-1]) > 0 })
	reconcile()
	p.await("settled", idle)
	if lost := p.lost(); len(lost) > 0 {
		t.Errorf("%d published objects are not in DESIRED, such as %s", len(lost), lost[0])
	}
	for _, site := range sites {
		if objects(site) == 0 {
			t.Errorf("nothing is published for %s", site)
		}
		if _, err := p.hub.Desired.Consumer(t.Context(), site); err != nil {
			t.Errorf("consumer of %s: %v", site, err)
		}
		if _, err := p.hub.JS.Stream(t.Context(), streams.Telemetry(site)); err != nil {
			t.Errorf("telemetry of %s: %v", site, err)
		}
	}
	p.vanish(siteKey("site-0"))
	p.await("deletion seen", func() bool { return p.changed.Len() == 0 && !p.SiteExists("site-0") && idle() })
	reconcile()
	if c.ensured["site-0"] {
		t.Error("a site that is gone is remembered")
	}
}
