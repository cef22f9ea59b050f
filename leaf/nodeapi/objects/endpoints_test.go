package objects

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
)

// put applies an object of the cloud.
func put(t *testing.T, s *Store, node, group, resource, namespace, name, version, body string) {
	t.Helper()
	must(t, s.Apply(streams.Message{
		Ref: streams.Ref{Node: node, Group: group, Resource: resource, Namespace: namespace, Name: name}, Op: streams.OpPut, UID: "u-" + name, Version: version, Object: []byte(body),
	}))
}

const sliceBody = `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"namespace":"default","name":"web","uid":"u-web","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
"endpoints":[
{"addresses":["10.1.0.9"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"elsewhere","targetRef":{"kind":"Pod","namespace":"default","name":"x","uid":"u-x"}},
{"addresses":["10.1.0.5"],"conditions":{"ready":%[1]t,"serving":%[1]t,"terminating":false},"nodeName":"n","targetRef":{"kind":"Pod","namespace":"default","name":"a","uid":"u-a"},"zone":"z"},
{"addresses":["192.0.2.1"],"conditions":{"ready":true}}],"ports":[{"port":8080}]}`

// TestEndpointsAreThoseOfTheSite follows the endpoints of a service at a site: pods of other sites
// are not among them, and the addresses and readiness of the site's pods are those that the kubelet
// says, not those that the cloud knows.
func TestEndpointsAreThoseOfTheSite(t *testing.T) {
	s := New(1, []Resource{
		{GroupVersionResource: Pods.WithVersion("v1"), Kind: "Pod", Namespaced: true},
		{GroupVersionResource: Nodes.WithVersion("v1"), Kind: "Node"},
		{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "services"}, Kind: "Service", Namespaced: true},
		{GroupVersionResource: EndpointSlices.WithVersion("v1"), Kind: "EndpointSlice", Namespaced: true},
	}, PodAccess{})
	slice := Key{"default", "web"}
	see := func() string {
		t.Helper()
		var es discoveryv1.EndpointSlice
		must(t, json.Unmarshal(s.Get(EndpointSlices, slice).JSON, &es))
		var out []string
		for _, e := range es.Endpoints {
			out = append(out, fmt.Sprintf("%s %t", e.Addresses[0], *e.Conditions.Ready))
		}
		return strings.Join(out, ", ")
	}
	expect := func(when, want string) {
		t.Helper()
		if got := see(); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	report := func(ip, ready string) {
		t.Helper()
		_, err := s.SetLocal(Pods, Key{"default", "a"}, &Local{
			Op: streams.OpPut, UID: "u-a", Body: fmt.Appendf(nil, `{"phase":"Running","podIP":%q,"conditions":[{"type":"Ready","status":%q}]}`, ip, ready),
		})
		must(t, err)
	}
	put(t, s, "", "discovery.k8s.io", "endpointslices", "default", "web", "5", fmt.Sprintf(sliceBody, true))
	expect("without nodes", "192.0.2.1 true")
	put(t, s, "n", "", "nodes", "", "n", "1", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","uid":"u-n"}}`)
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"default","name":"a","uid":"u-a"},"spec":{"nodeName":"n"}}`
	put(t, s, "n", "", "pods", "default", "a", "6", pod)
	expect("before the kubelet's first report", "10.1.0.5 true, 192.0.2.1 true")
	before := string(s.Get(EndpointSlices, slice).JSON)
	report("10.1.0.5", "True")
	if after := string(s.Get(EndpointSlices, slice).JSON); after != before {
		t.Errorf("a report of the same changed the slice:\n%s\n%s", before, after)
	}
	report("10.1.0.77", "True")
	expect("after a reboot", "10.1.0.77 true, 192.0.2.1 true")
	report("10.1.0.77", "False")
	expect("not ready", "10.1.0.77 false, 192.0.2.1 true")
	put(t, s, "", "", "services", "default", "web", "7", `{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"default","name":"web","uid":"u-s"},"spec":{"publishNotReadyAddresses":true}}`)
	put(t, s, "", "discovery.k8s.io", "endpointslices", "default", "web", "8", strings.Replace(fmt.Sprintf(sliceBody, true), `"zone":"z"`, `"zone":"y"`, 1))
	expect("not ready, of a service that does not mind", "10.1.0.77 true, 192.0.2.1 true")
	report("", "False")
	expect("without an address", "192.0.2.1 true")
	report("10.1.0.78", "True")
	expect("with another one", "10.1.0.78 true, 192.0.2.1 true")
	must(t, s.Apply(streams.Message{Ref: streams.Ref{Node: "n", Resource: "nodes", Name: "n"}, Op: streams.OpDelete, UID: "u-n", Version: "9"}))
	expect("without the node", "192.0.2.1 true")
}

// TestSiteLeadsToItsAPI applies the objects by which pods find the API server, twice: they lead to
// the site's own, whose authority is added once.
func TestSiteLeadsToItsAPI(t *testing.T) {
	s := New(1, []Resource{
		{GroupVersionResource: ConfigMaps.WithVersion("v1"), Kind: "ConfigMap", Namespaced: true},
		{GroupVersionResource: EndpointSlices.WithVersion("v1"), Kind: "EndpointSlice", Namespaced: true},
	}, PodAccess{netip.MustParseAddrPort("169.254.104.41:10444"), []byte("SITE\n")})
	for i, family := range []string{"IPv4", "IPv6"} {
		name := "kubernetes" + family
		put(t, s, "", "discovery.k8s.io", "endpointslices", "default", name, fmt.Sprint(5+i), fmt.Sprintf(
			`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"namespace":"default","name":%q,"labels":{"kubernetes.io/service-name":"kubernetes"}},"addressType":%q,"endpoints":[{"addresses":["203.0.113.7"]}],"ports":[{"name":"https","port":6443}]}`, name, family))
		var es discoveryv1.EndpointSlice
		must(t, json.Unmarshal(s.Get(EndpointSlices, Key{"default", name}).JSON, &es))
		if want := 1 - i; len(es.Endpoints) != want || *es.Ports[0].Port != 10444 || want == 1 && es.Endpoints[0].Addresses[0] != "169.254.104.41" {
			t.Errorf("%s: %+v, %+v", family, es.Endpoints, es.Ports)
		}
	}
	for i, ca := range []string{"CLUSTER", "CLUSTER\n", "OTHER\n"} {
		put(t, s, "", "", "configmaps", "default", "kube-root-ca.crt", fmt.Sprint(5+i), fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"kube-root-ca.crt"},"data":{"ca.crt":%q}}`, ca))
		got := Peek(s.Get(ConfigMaps, Key{"default", "kube-root-ca.crt"}).JSON, "data", "ca.crt")
		if strings.Count(got, "SITE") != 1 || got != strings.TrimSpace(ca)+"\nSITE\n" {
			t.Errorf("ca.crt is %q", got)
		}
	}
}
