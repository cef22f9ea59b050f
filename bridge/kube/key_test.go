package kube

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKeys(t *testing.T) {
	t.Parallel()
	for k, want := range map[Key]string{
		CoreKey("nodes", "", "n"):                               "nodes n",
		CoreKey("pods", "d", "p"):                               "pods d/p",
		{Group: DeviceGroup, Resource: "devices", Name: "pump"}: "devices.devices.kubeedge.io pump",
		CSINodeKey("n"):                                         "csinodes.storage.k8s.io n",
		{Group: SiteGroup, Resource: "sites", Name: "plant-a"}:  "sites.petiole.dev plant-a",

		{Group: ResourceGroup, Resource: "resourceclaims", Namespace: "d", Name: "c"}:             "resourceclaims.resource.k8s.io d/c",
		{Group: CertificatesGroup, Resource: "clustertrustbundles", Name: "b"}:                    "clustertrustbundles.certificates.k8s.io b",
		{Group: CertificatesGroup, Resource: "podcertificaterequests", Namespace: "d", Name: "r"}: "podcertificaterequests.certificates.k8s.io d/r",
		{Group: StorageGroup, Resource: "volumeattachments", Name: "v"}:                           "volumeattachments.storage.k8s.io v",
		{Group: RBACGroup, Resource: "roles", Namespace: "d", Name: "r"}:                          "roles.rbac.authorization.k8s.io d/r",
		{Group: RBACGroup, Resource: "clusterrolebindings", Name: "b"}:                            "clusterrolebindings.rbac.authorization.k8s.io b",
	} {
		if got := k.Ref("").String(); got != want {
			t.Errorf("%+v is %q, want %q", k, got, want)
		}
		if back := KeyOf(k.Ref("n1")); back != k {
			t.Errorf("%+v became %+v", k, back)
		}
		if r, ok := k.VersionedResource(); !ok || r.Group != k.Group || r.Resource != k.Resource || r.Version == "" {
			t.Errorf("%+v is watched as %v, %v", k, r, ok)
		}
	}
	if r, ok := CoreKey("events", "d", "e").VersionedResource(); ok {
		t.Errorf("events are watched as %v", r)
	}
}

// What a pod needs is published before the pod, and a site's nodes before all.
func TestRankOrdersWhatAPodNeeds(t *testing.T) {
	t.Parallel()
	pod := CoreKey("pods", "", "").Rank()
	for _, resource := range []string{"nodes", "namespaces", "serviceaccounts", "configmaps", "secrets", "persistentvolumes", "persistentvolumeclaims", "services"} {
		if CoreKey(resource, "", "").Rank() >= pod {
			t.Errorf("%s come after pods", resource)
		}
	}
	for _, k := range []Key{{Group: ResourceGroup, Resource: "resourceclaims"}, {Group: CertificatesGroup, Resource: "clustertrustbundles"}, {Group: StorageGroup, Resource: "volumeattachments"}} {
		if k.Rank() >= pod {
			t.Errorf("%s come after pods", k.Resource)
		}
	}
	model, device := Key{Group: DeviceGroup, Resource: "devicemodels"}, Key{Group: DeviceGroup, Resource: "devices"}
	if model.Rank() >= device.Rank() {
		t.Error("device models come after devices")
	}
	for k, want := range map[Key]bool{
		CoreKey("pods", "d", "p"): true, device: true, CoreKey("nodes", "", "n"): false, {Group: "other", Resource: "pods"}: false,
	} {
		if k.BindsToNode() != want {
			t.Errorf("%+v binds to a node: %v", k, !want)
		}
	}
}
