package objects

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/streams"
)

// While the site has no link, pods are served with IfNotPresent in place of Always, and nothing
// else of them changes.
func TestImagesOnDiskDoWithoutALink(t *testing.T) {
	s := newStore()
	message := podMessage(streams.OpPut, "u1", "10")
	message.Object = []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"default","name":"a","uid":"u1"},"spec":{"nodeName":"n","unknownToUs":1,
"initContainers":[{"name":"i","imagePullPolicy":"Always"}],
"containers":[{"name":"a","image":"r/a:latest","imagePullPolicy":"Always","args":["Always"]},{"name":"b","imagePullPolicy":"Never"},{"name":"c"}],
"ephemeralContainers":[{"name":"e","imagePullPolicy":"IfNotPresent"}],
"volumes":[{"name":"v","image":{"reference":"r/v","pullPolicy":"Always"}},{"name":"w","emptyDir":{}}]}}`)
	must(t, s.Apply(message))
	policies := func() string {
		var p corev1.Pod
		must(t, json.Unmarshal(s.Get(Pods, podKey).JSON, &p))
		var out []string
		for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
			out = append(out, string(c.ImagePullPolicy))
		}
		return strings.Join(append(out, string(p.Spec.EphemeralContainers[0].ImagePullPolicy), string(p.Spec.Volumes[0].Image.PullPolicy)), " ")
	}
	const online, offline = "Always Always Never  IfNotPresent Always", "IfNotPresent IfNotPresent Never  IfNotPresent IfNotPresent"
	if got := policies(); got != online {
		t.Fatalf("with a link: %q", got)
	}
	before := string(s.Get(Pods, podKey).JSON)
	var events []watch.EventType
	s.StartHistory(func(_ schema.GroupResource, kind watch.EventType, _ *Object) { events = append(events, kind) })
	must(t, s.SetOffline(true))
	must(t, s.SetOffline(true))
	if got := policies(); got != offline || len(events) != 1 || events[0] != watch.Modified {
		t.Errorf("without a link: %q, events %v", got, events)
	}
	if o := string(s.Get(Pods, podKey).JSON); !strings.Contains(o, `"unknownToUs":1`) || !strings.Contains(o, `"args":["Always"]`) {
		t.Errorf("something else has changed: %s", o)
	}
	message.Version, message.Object = "11", []byte(strings.Replace(string(message.Object), `"name":"c"`, `"name":"c","image":"other"`, 1))
	must(t, s.Apply(message))
	if got := policies(); got != offline {
		t.Errorf("of a changed pod: %q", got)
	}
	message.Version, message.Object = "12", []byte(strings.Replace(string(message.Object), `,"image":"other"`, "", 1))
	must(t, s.Apply(message))
	must(t, s.SetOffline(false))
	withoutVersion := func(o string) string {
		d, err := ParseDocument([]byte(o))
		must(t, err)
		meta, err := d.Child("metadata")
		must(t, err)
		delete(meta, "resourceVersion")
		d["metadata"] = meta.Encode()
		return string(d.Encode())
	}
	if got := string(s.Get(Pods, podKey).JSON); withoutVersion(got) != withoutVersion(before) {
		t.Errorf("with a link again:\n%s\nbefore:\n%s", got, before)
	}
}

// A kubelet goes on watching an immutable object, so that new pods get one that is created again.
func TestImmutableObjectsAreWatched(t *testing.T) {
	s := newStore()
	k := Key{"default", "a"}
	for version, uid := range map[string]string{"1": "u1", "2": "u2"} {
		must(t, s.Apply(streams.Message{
			Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: "a"}, Op: streams.OpPut, UID: uid, Version: version,
			Object: []byte(`{"apiVersion":"v1","kind":"ConfigMap","immutable":true,"metadata":{"namespace":"default","name":"a","uid":"` + uid + `"},"data":{"immutable":"true"}}`),
		}))
	}
	var c corev1.ConfigMap
	must(t, json.Unmarshal(s.Get(ConfigMaps, k).JSON, &c))
	if c.Immutable != nil || c.Data["immutable"] != "true" || c.UID != "u2" {
		t.Errorf("served %+v", c)
	}
}
