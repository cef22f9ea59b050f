package desired

import (
	"strconv"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// vanish removes a watched object, as a watch event does.
func (p *publishing) vanish(k kube.Key) {
	p.watched.set(k, nil)
	p.Changed(k, 0)
}

// on waits until DESIRED has a message with that operation on a subject, and returns it.
func (p *publishing) on(r streams.Ref, op streams.Op, uid string) streams.Message {
	p.t.Helper()
	var m streams.Message
	p.await(string(op)+" of "+r.String(), func() bool {
		raw, err := p.hub.Desired.GetLastMsgForSubject(p.t.Context(), streams.DesiredSubject("plant-a", r))
		if err != nil {
			return false
		}
		if _, m, err = streams.Decode(raw.Subject, raw.Header, raw.Data); err != nil {
			p.t.Fatal(err)
		}
		return m.Op == op && m.UID == uid
	})
	return m
}

// The tombstone of an object that cannot come back has a higher version than the object, and a
// lower one than whatever follows. The tombstone of an object that may be wanted again has the
// same version.
func TestTombstoneVersions(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	k := p.populate(2)[0]
	pod := kube.CoreKey("pods", "default", "web")
	version := func(m streams.Message) int {
		t.Helper()
		n, err := strconv.Atoi(m.Version)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const uid, device = "uid-settings-0", "uid-pump"

	// No longer referenced, and wanted again unchanged.
	put := p.on(k.Ref(""), streams.OpPut, uid)
	p.set(pod, map[string]any{"spec": map[string]any{"nodeName": "a1"}})
	if m := p.on(k.Ref(""), streams.OpDelete, uid); m.Version != put.Version {
		t.Errorf("not referenced any more: version %s after %s", m.Version, put.Version)
	}
	p.set(pod, map[string]any{"spec": map[string]any{"nodeName": "a1", "volumes": []any{map[string]any{"name": "v", "configMap": map[string]any{"name": k.Name}}}}})
	if m := p.on(k.Ref(""), streams.OpPut, uid); m.Version != put.Version {
		t.Errorf("referenced again: version %s after %s", m.Version, put.Version)
	}

	// Deleted.
	p.vanish(k)
	if m := p.on(k.Ref(""), streams.OpDelete, uid); version(m) != version(put)+1 {
		t.Errorf("deleted: version %s after %s", m.Version, put.Version)
	}
	put = p.on(pod.Ref("a1"), streams.OpPut, "uid-web")
	p.vanish(pod)
	if m := p.on(pod.Ref("a1"), streams.OpDelete, "uid-web"); version(m) != version(put)+1 {
		t.Errorf("deleted: version %s after %s", m.Version, put.Version)
	}

	// Moved to another node, and back.
	p.set(kube.CoreKey("nodes", "", "a2"), map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.SiteLabel: "plant-a"}}})
	d := kube.Key{Group: kube.DeviceGroup, Resource: "devices", Namespace: "default", Name: "pump"}
	at := func(node string) { p.set(d, map[string]any{"spec": map[string]any{"nodeName": node}}) }
	at("a1")
	first := p.on(d.Ref("a1"), streams.OpPut, device)
	at("a2")
	left, second := p.on(d.Ref("a1"), streams.OpDelete, device), p.on(d.Ref("a2"), streams.OpPut, device)
	if version(left) != version(first)+1 || version(left) > version(second) {
		t.Errorf("moved: tombstone of version %s after %s, at the other node %s", left.Version, first.Version, second.Version)
	}
	at("a1")
	if back := p.on(d.Ref("a1"), streams.OpPut, device); version(back) <= version(left) {
		t.Errorf("moved back: version %s after the tombstone's %s", back.Version, left.Version)
	}
	p.await("nothing left", p.idle)
}

func TestNextVersion(t *testing.T) {
	t.Parallel()
	for is, want := range map[string]string{"1": "2", "999": "1000", "": "", "abc": "abc"} {
		if got := nextVersion(is); got != want {
			t.Errorf("after %q comes %q, want %q", is, got, want)
		}
	}
}

// What leaves a site because its resource is no longer watched may be wanted again unchanged, when a
// Site selects the resource again or a bridge of a later version is back: a site keeps a tombstone of
// a higher version, and would refuse the object.
func TestUnwatchedObjectsComeBackUnchanged(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(0)
	widgets := schema.GroupResource{Group: "example.com", Resource: "widgets"}
	site, k := kube.SiteKey("plant-a"), kube.Key{Group: "example.com", Resource: "widgets", Namespace: "default", Name: "w"}
	selection := map[string]any{"spec": map[string]any{"resources": []any{map[string]any{"group": "example.com", "resource": "widgets"}}}}
	p.set(site, selection)
	p.set(k, map[string]any{"spec": map[string]any{"size": int64(1)}})
	put, o := p.on(k.Ref(""), streams.OpPut, "uid-w"), p.watched.Get(k)

	p.watched.unwatch(widgets)
	p.set(site, map[string]any{})
	p.Changed(k, 0)
	if m := p.on(k.Ref(""), streams.OpDelete, "uid-w"); m.Version != put.Version {
		t.Errorf("not watched: the tombstone has version %s, the object %s", m.Version, put.Version)
	}
	p.watched.unwatch(schema.GroupResource{})
	p.set(site, selection)
	p.watched.set(k, o)
	p.Changed(k, 0)
	if m := p.on(k.Ref(""), streams.OpPut, "uid-w"); m.Version != put.Version {
		t.Errorf("selected again: version %s after %s", m.Version, put.Version)
	}
	p.await("nothing left", p.idle)
}
