package objects

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
)

// rootCAName is the ConfigMap by which pods verify the API server, in every namespace.
const rootCAName = "kube-root-ca.crt"

// PodAccess is how the pods of this node reach the API: the endpoints of the service
// default/kubernetes are the address, and the ConfigMaps kube-root-ca.crt contain the authority,
// too. The zero value: pods do not reach it, and those objects are the cloud's.
type PodAccess struct {
	Address netip.AddrPort
	CAPEM   []byte
}

// withAuthority adds the authority of the API at this node to a ConfigMap with that of the API
// server.
func (a PodAccess) withAuthority(configMap Document) error {
	data, err := configMap.Child("data")
	if err != nil {
		return err
	}
	ca := data.Text("ca.crt")
	if ca == "" || len(a.CAPEM) == 0 || bytes.Contains([]byte(ca), a.CAPEM) {
		return nil
	}
	if ca[len(ca)-1] != '\n' {
		ca += "\n"
	}
	data.SetText("ca.crt", ca+string(a.CAPEM))
	configMap["data"] = data.Encode()
	return nil
}

// localEndpoints returns a desired EndpointSlice as it is at the site: with the endpoints at the
// site's nodes only, since the networks of pods do not reach farther; and with the present
// addresses and readiness of the site's pods, which the cloud learns later, or not at all while
// the link is down. It also returns the pods of the slice. What already is as it should be stays
// as the cloud wrote it.
func (ts tables) localEndpoints(slice Document, namespace string, access PodAccess) (sets.Set[Key], error) {
	meta, err := slice.Child("metadata")
	if err != nil {
		return nil, err
	}
	labels, err := meta.Child("labels")
	if err != nil {
		return nil, err
	}
	if access.Address.IsValid() && namespace == corev1.NamespaceDefault && labels.Text(discoveryv1.LabelServiceName) == "kubernetes" {
		return nil, access.asEndpoints(slice)
	}
	if IsEmpty(slice["endpoints"]) {
		return nil, nil
	}
	var endpoints []json.RawMessage
	if err := json.Unmarshal(slice["endpoints"], &endpoints); err != nil {
		return nil, fmt.Errorf("endpoints: %w", err)
	}
	pods, always := sets.Set[Key]{}, false
	if e := ts.of(schema.GroupResource{Resource: "services"}).entries[Key{namespace, labels.Text(discoveryv1.LabelServiceName)}]; e != nil && e.effective != nil {
		always = Peek(e.effective.JSON, "spec", "publishNotReadyAddresses") == "true"
	}
	kept := make([]json.RawMessage, 0, len(endpoints))
	for i, raw := range endpoints {
		var e discoveryv1.Endpoint
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, fmt.Errorf("endpoints[%d]: %w", i, err)
		}
		local, keep, err := ts.localEndpoint(raw, e, slice.Text("addressType"), always, pods)
		if err != nil {
			return nil, fmt.Errorf("endpoints[%d]: %w", i, err)
		}
		if keep {
			kept = append(kept, local)
		}
	}
	slice["endpoints"], err = json.Marshal(kept)
	return pods, err
}

// localEndpoint returns an endpoint as it is at the site, and whether the site has it. It adds its
// pod to pods. always is set if the service publishes the addresses of pods that are not ready.
func (ts tables) localEndpoint(raw json.RawMessage, e discoveryv1.Endpoint, family string, always bool, pods sets.Set[Key]) (json.RawMessage, bool, error) {
	if e.NodeName != nil {
		if node := ts.of(Nodes).entries[Key{Name: *e.NodeName}]; node == nil || node.effective == nil {
			return nil, false, nil
		}
	}
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
		return raw, true, nil
	}
	k := Key{e.TargetRef.Namespace, e.TargetRef.Name}
	pods.Insert(k)
	p := ts.of(Pods).entries[k]
	switch {
	case p == nil, p.local == nil:
		return raw, true, nil // nothing was reported here
	case p.effective == nil, p.effective.UID != string(e.TargetRef.UID):
		return nil, false, nil // it has ended, or is another one by now
	}
	var pod corev1.Pod
	if err := json.Unmarshal(p.effective.JSON, &pod); err != nil {
		return nil, false, fmt.Errorf("pod %s: %w", k, err)
	}
	addresses := addressesOf(&pod, family)
	if len(addresses) == 0 || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil, false, nil
	}
	running := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	terminating := pod.DeletionTimestamp != nil
	ready := running && !terminating || always
	if slices.Equal(e.Addresses, addresses) && isTrue(e.Conditions.Ready) == ready && isTrue(e.Conditions.Serving) == running && isTrue(e.Conditions.Terminating) == terminating {
		return raw, true, nil
	}
	e.Addresses = addresses
	e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &running, Terminating: &terminating}
	local, err := json.Marshal(e)
	return local, true, err
}

func isTrue(b *bool) bool { return b != nil && *b }

// addressesOf returns the address of a pod in an address family, none if it has none yet.
func addressesOf(pod *corev1.Pod, family string) []string {
	ips := pod.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is4() == (family == string(discoveryv1.AddressTypeIPv4)) {
			return []string{ip.IP}
		}
	}
	return nil
}

// asEndpoints makes the address the only endpoint of a slice of its family. A slice of another
// family has none.
func (a PodAccess) asEndpoints(slice Document) error {
	family := discoveryv1.AddressTypeIPv4
	if a.Address.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	endpoints := []discoveryv1.Endpoint{}
	if slice.Text("addressType") == string(family) {
		ready := true
		endpoints = append(endpoints, discoveryv1.Endpoint{Addresses: []string{a.Address.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	name, protocol, port := "https", corev1.ProtocolTCP, int32(a.Address.Port())
	var err error
	if slice["endpoints"], err = json.Marshal(endpoints); err == nil {
		slice["ports"], err = json.Marshal([]discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}})
	}
	return err
}
