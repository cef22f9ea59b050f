package bridge

import (
	"fmt"
	"testing"

	"go.uber.org/zap"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
)

// controllerAt returns a site controller for p without an API server.
func controllerAt(p *publishing) *siteController {
	p.t.Helper()
	c, err := kube.NewClients(&rest.Config{Host: "127.0.0.1:1", QPS: -1}, ImpersonationConstrained, p.fence.Transport)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	log := zap.NewNop()
	return &siteController{
		hub: p.hub, clients: c, cache: p.cache, publish: p.publisher, liveness: liveness.NewTracker(), syncStates: antientropy.NewStates(newInstruments(p.count).syncHooks(p.count, func() {})), duplicates: liveness.NewDuplicateDetector(),
		events: newSiteEvents(c.Own, "test", log), metrics: newInstruments(p.count).sites, count: p.count, log: log, outage: newOutage(log, "survey"),
		leadership: func() (string, uint64) { return "1-e", 1 }, triggered: make(chan struct{}, 1),
		ensured: map[string]bool{}, written: map[string]siteWrite{},
	}
}

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
	s := controllerAt(p)
	var sites []string
	for i := range count {
		sites = append(sites, fmt.Sprint("site-", i))
	}
	idle := func() bool {
		if p.objects.Len() > 0 {
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
	p.await("Sites seen", func() bool { return idle() && len(p.nodesBySite()) == count })
	// Only the write of the status fails.
	_, _ = s.round(t.Context())
	if len(s.ensured) != count {
		t.Fatalf("%d consumers, want %d", len(s.ensured), count)
	}
	// Nothing is published for them: only the site controller knows that something is left.
	for _, site := range sites {
		p.vanish(siteKey(site))
	}
	p.await("deletions seen", func() bool { return idle() && len(p.nodesBySite()) == 0 })
	done := make(chan struct{})
	go func() { _, _ = s.round(t.Context()); close(done) }()
	p.await("the survey is on it", func() bool {
		info, err := p.hub.Desired.Info(t.Context())
		return err == nil && info.State.Consumers < count
	})
	for _, site := range sites {
		p.set(kube.CoreKey("nodes", "", "n-"+site), map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.SiteLabel: site}}})
		p.set(siteKey(site), map[string]any{})
	}
	<-done
	p.await("published again", func() bool { return idle() && objects(sites[count-1]) > 0 })
	_, _ = s.round(t.Context())
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
	}
	s.liveness.Heartbeat("site-0", streams.Presence{}, noon)
	p.vanish(siteKey("site-0"))
	p.await("deletion seen", func() bool { return p.objects.Len() == 0 && !p.SiteExists("site-0") && idle() })
	_, _ = s.round(t.Context())
	if connected, _, _ := s.liveness.State("site-0"); s.ensured["site-0"] || connected {
		t.Error("a site that is gone is remembered")
	}
}
