package desired

import (
	"strconv"
	"testing"

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
