package closure

import (
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/kube/kubetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func see(t *testing.T, c *Index, id, body string) []string {
	t.Helper()
	k, o := kubetest.Object(t, id, body)
	f, err := DependenciesOf(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return c.Set(k, f)
}

func ids(keys []kube.Key) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.Ref("").String())
	}
	slices.Sort(out)
	return out
}

const (
	nodeOfA = `metadata: {labels: {petiole.dev/site: plant-a}}`
	nodeOfB = `metadata: {labels: {petiole.dev/site: plant-b}}`
)

// twoSites returns a closure with a node and a pod at each of two sites.
func twoSites(t *testing.T) *Index {
	c := New()
	see(t, c, "sites.petiole.dev plant-a", "")
	see(t, c, "sites.petiole.dev plant-b", "")
	see(t, c, "nodes a1", nodeOfA)
	see(t, c, "nodes b1", nodeOfB)
	see(t, c, "nodes cloud", "")
	see(t, c, "pods default/pa", `spec: {nodeName: a1, containers: [{name: c, envFrom: [{configMapRef: {name: ca}}]}]}`)
	see(t, c, "pods other/pb", `spec: {nodeName: b1, containers: [{name: c, envFrom: [{secretRef: {name: sb}}]}]}`)
	see(t, c, "pods default/pc", `spec: {nodeName: cloud, containers: [{name: c, envFrom: [{configMapRef: {name: cc}}]}]}`)
	see(t, c, "pods default/pending", `spec: {containers: [{name: c, envFrom: [{configMapRef: {name: cp}}]}]}`)
	return c
}

func TestClosureOfASite(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		extra [][2]string
		want  []string // of plant-a, in addition to those of twoSites
	}{
		{name: "pod and its ConfigMap"},
		{
			name: "every kind of reference",
			extra: [][2]string{{"pods default/full", `
spec:
  nodeName: a1
  serviceAccountName: robot
  runtimeClassName: kata
  imagePullSecrets: [{name: pull}]
  initContainers: [{name: i, env: [{name: X, valueFrom: {configMapKeyRef: {name: c1, key: k}}}]}]
  containers: [{name: c, env: [{name: X, valueFrom: {secretKeyRef: {name: s1, key: k}}}], envFrom: [{secretRef: {name: s2}}]}]
  ephemeralContainers: [{name: e, envFrom: [{configMapRef: {name: c2}}]}]
  volumes:
  - {name: a, configMap: {name: c3}}
  - {name: b, secret: {secretName: s3}}
  - {name: c, projected: {sources: [{configMap: {name: kube-root-ca.crt}}, {secret: {name: s4}}, {serviceAccountToken: {path: t}}]}}
  - {name: d, persistentVolumeClaim: {claimName: data}}
  - {name: e, ephemeral: {volumeClaimTemplate: {}}}
  - {name: f, csi: {driver: d, nodePublishSecretRef: {name: s5}}}
  - {name: g, emptyDir: {}}
  - {name: h, configMap: {name: c3}}
`}},
			want: []string{
				"pods default/full", "serviceaccounts default/robot", "runtimeclasses.node.k8s.io kata", "secrets default/pull",
				"configmaps default/c1", "secrets default/s1", "secrets default/s2", "configmaps default/c2", "configmaps default/c3", "secrets default/s3",
				"configmaps default/kube-root-ca.crt", "secrets default/s4", "persistentvolumeclaims default/data", "persistentvolumeclaims default/full-e", "secrets default/s5",
			},
		},
		{
			name: "claim, volume and the volume's secrets",
			extra: [][2]string{
				{"pods default/db", `spec: {nodeName: a1, containers: [], volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}`},
				{"persistentvolumeclaims default/data", `spec: {volumeName: pv-1}`},
				{"persistentvolumes pv-1", `spec: {claimRef: {namespace: default}, csi: {nodeStageSecretRef: {name: stage, namespace: storage}, nodePublishSecretRef: {name: publish, namespace: storage}}}`},
				{"persistentvolumeclaims default/unused", `spec: {volumeName: pv-2}`},
			},
			want: []string{"pods default/db", "persistentvolumeclaims default/data", "persistentvolumes pv-1", "secrets storage/stage", "secrets storage/publish"},
		},
		{
			name: "services of the pods' namespaces and of the API server, and CSI drivers",
			extra: [][2]string{
				{"services default/web", ""},
				{"endpointslices.discovery.k8s.io default/web-x", ""},
				{"services other/db", ""},
				{"services default/kubernetes", ""},
				{"endpointslices.discovery.k8s.io default/kubernetes", ""},
				{"csidrivers.storage.k8s.io nfs", ""},
			},
			want: []string{
				"services default/web", "endpointslices.discovery.k8s.io default/web-x",
				"services default/kubernetes", "endpointslices.discovery.k8s.io default/kubernetes", "csidrivers.storage.k8s.io nfs",
			},
		},
		{
			name: "resource claims, named and generated",
			extra: [][2]string{{"pods default/gpu", `
spec:
  nodeName: a1
  containers: []
  resourceClaims: [{name: named, resourceClaimName: shared}, {name: t, resourceClaimTemplateName: template}, {name: later, resourceClaimTemplateName: template}]
status:
  resourceClaimStatuses: [{name: t, resourceClaimName: gpu-t-x7}, {name: later}]
  extendedResourceClaimStatus: {resourceClaimName: gpu-extended, requestMappings: []}
`}, {"resourceclaims.resource.k8s.io default/other", ""}},
			want: []string{
				"pods default/gpu", "resourceclaims.resource.k8s.io default/shared", "resourceclaims.resource.k8s.io default/gpu-t-x7",
				"resourceclaims.resource.k8s.io default/gpu-extended",
			},
		},
		{
			name: "trust bundles, by name and of a signer",
			extra: [][2]string{
				{"pods default/tls", `
spec:
  nodeName: a1
  containers: []
  volumes:
  - {name: a, projected: {sources: [{clusterTrustBundle: {name: roots}}, {clusterTrustBundle: {signerName: example.com/mesh}}, {clusterTrustBundle: {signerName: example.com/none}}]}}
`},
				{"clustertrustbundles.certificates.k8s.io roots", ""},
				{"clustertrustbundles.certificates.k8s.io example.com:mesh:1", `spec: {signerName: example.com/mesh}`},
				{"clustertrustbundles.certificates.k8s.io example.com:mesh:2", `spec: {signerName: example.com/mesh}`},
				{"clustertrustbundles.certificates.k8s.io example.com:web:1", `spec: {signerName: example.com/web}`},
				{"pods other/tls", `{spec: {nodeName: b1, containers: [], volumes: [{name: a, projected: {sources: [{clusterTrustBundle: {signerName: example.com/web}}]}}]}}`},
			},
			want: []string{
				"pods default/tls", "clustertrustbundles.certificates.k8s.io roots",
				"clustertrustbundles.certificates.k8s.io example.com:mesh:1", "clustertrustbundles.certificates.k8s.io example.com:mesh:2",
			},
		},
		{
			name: "roles of its service accounts, by name and by group",
			extra: [][2]string{
				{"pods default/robot", `spec: {nodeName: a1, serviceAccountName: robot, containers: []}`},
				{"rolebindings.rbac.authorization.k8s.io default/robot", `{roleRef: {kind: Role, name: reader}, subjects: [{kind: ServiceAccount, namespace: default, name: robot}, {kind: User, name: bob}]}`},
				{"rolebindings.rbac.authorization.k8s.io shared/robot", `{roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: User, name: "system:serviceaccount:default:robot"}]}`},
				{"rolebindings.rbac.authorization.k8s.io default/bob", `{roleRef: {kind: Role, name: reader}, subjects: [{kind: User, name: bob}, {kind: Group, name: devs}]}`},
				{"clusterrolebindings.rbac.authorization.k8s.io namespace", `{roleRef: {kind: ClusterRole, name: of-a}, subjects: [{kind: Group, name: "system:serviceaccounts:default"}]}`},
				{"clusterrolebindings.rbac.authorization.k8s.io elsewhere", `{roleRef: {kind: ClusterRole, name: of-b}, subjects: [{kind: Group, name: "system:serviceaccounts:other"}]}`},
				{"clusterrolebindings.rbac.authorization.k8s.io all", `{roleRef: {kind: ClusterRole, name: of-all}, subjects: [{kind: Group, name: "system:authenticated"}]}`},
				{"clusterrolebindings.rbac.authorization.k8s.io system:discovery", `{metadata: {labels: {kubernetes.io/bootstrapping: rbac-defaults}}, roleRef: {kind: ClusterRole, name: "system:discovery"}, subjects: [{kind: Group, name: "system:authenticated"}]}`},
				{"clusterrolebindings.rbac.authorization.k8s.io other", `{roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: ServiceAccount, namespace: other, name: robot}]}`},
			},
			want: []string{
				"pods default/robot", "serviceaccounts default/robot",
				"rolebindings.rbac.authorization.k8s.io default/robot", "roles.rbac.authorization.k8s.io default/reader",
				"rolebindings.rbac.authorization.k8s.io shared/robot", "clusterroles.rbac.authorization.k8s.io view",
				"clusterrolebindings.rbac.authorization.k8s.io namespace", "clusterroles.rbac.authorization.k8s.io of-a",
				"clusterrolebindings.rbac.authorization.k8s.io all", "clusterroles.rbac.authorization.k8s.io of-all",
			},
		},
		{
			name: "attachments and requests for certificates that name its nodes",
			extra: [][2]string{
				{"volumeattachments.storage.k8s.io csi-1", `spec: {nodeName: a1}`},
				{"volumeattachments.storage.k8s.io csi-2", `spec: {nodeName: b1}`},
				{"volumeattachments.storage.k8s.io csi-3", `spec: {nodeName: cloud}`},
				{"podcertificaterequests.certificates.k8s.io default/req-1", `spec: {nodeName: a1}`},
				{"podcertificaterequests.certificates.k8s.io default/req-2", `spec: {nodeName: b1}`},
			},
			want: []string{"volumeattachments.storage.k8s.io csi-1", "podcertificaterequests.certificates.k8s.io default/req-1"},
		},
		{
			name: "devices and their models, of its own nodes only",
			extra: [][2]string{
				{"devices.devices.kubeedge.io plant/pump", `spec: {nodeName: a1, deviceModelRef: {name: pump-model}}`},
				{"devicemodels.devices.kubeedge.io plant/pump-model", ""},
				{"devices.devices.kubeedge.io plant/fan", `spec: {nodeName: b1, deviceModelRef: {name: fan-model}}`},
			},
			want: []string{"devices.devices.kubeedge.io plant/pump", "devicemodels.devices.kubeedge.io plant/pump-model"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := twoSites(t)
			for _, e := range tt.extra {
				see(t, c, e[0], e[1])
			}
			changed, dropped := c.Recompute("plant-a")
			want := append([]string{"nodes a1", "pods default/pa", "namespaces default", "serviceaccounts default/default", "configmaps default/ca"}, tt.want...)
			slices.Sort(want)
			want = slices.Compact(want)
			if got := ids(changed); !slices.Equal(got, want) {
				t.Errorf("plant-a needs\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
			if len(dropped) > 0 {
				t.Errorf("dropped %v from nothing", ids(dropped))
			}
		})
	}
}

func TestClosureConcernsOnlyTheSitesOfAChange(t *testing.T) {
	t.Parallel()
	fresh := func() *Index {
		c := twoSites(t)
		see(t, c, "persistentvolumeclaims default/data", "")
		see(t, c, "pods default/db", `spec: {nodeName: a1, containers: [], volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}`)
		see(t, c, "pods other/tls", `spec: {nodeName: b1, containers: [], volumes: [{name: t, projected: {sources: [{clusterTrustBundle: {signerName: s}}]}}]}`)
		c.Recompute("plant-a")
		c.Recompute("plant-b")
		return c
	}
	tests := []struct {
		name, id, body string
		sites          []string
		changed        []string
		dropped        []string
	}{
		{"content of a ConfigMap", "configmaps default/ca", `data: {k: v}`, nil, nil, nil},
		{"content of a pod", "pods default/pa", `{metadata: {labels: {tier: web}}, spec: {nodeName: a1, containers: [{name: c, envFrom: [{configMapRef: {name: ca}}]}]}}`, nil, nil, nil},
		{"pod bound to a node", "pods default/pending", `spec: {nodeName: b1, containers: []}`, []string{"plant-b"}, []string{"namespaces default", "pods default/pending", "serviceaccounts default/default"}, nil},
		{"pod with another reference", "pods default/pa", `spec: {nodeName: a1, containers: [{name: c, envFrom: [{configMapRef: {name: new}}]}]}`, []string{"plant-a"}, []string{"configmaps default/new"}, []string{"configmaps default/ca"}},
		{"claim gets its volume", "persistentvolumeclaims default/data", `spec: {volumeName: pv}`, []string{"plant-a"}, []string{"persistentvolumes pv"}, nil},
		{"service of a namespace", "services other/db", "", []string{"plant-b"}, []string{"services other/db"}, nil},
		{"CSI driver", "csidrivers.storage.k8s.io nfs", "", []string{"plant-a", "plant-b"}, []string{"csidrivers.storage.k8s.io nfs"}, nil},
		{"resource claim generated for a pod", "pods default/pa", `{spec: {nodeName: a1, containers: [{name: c, envFrom: [{configMapRef: {name: ca}}]}]}, status: {resourceClaimStatuses: [{name: r, resourceClaimName: pa-r-1}]}}`, []string{"plant-a"}, []string{"resourceclaims.resource.k8s.io default/pa-r-1"}, nil},
		{"bundle of a trusted signer", "clustertrustbundles.certificates.k8s.io s:1", `spec: {signerName: s}`, []string{"plant-b"}, []string{"clustertrustbundles.certificates.k8s.io s:1"}, nil},
		{"bundle of another signer", "clustertrustbundles.certificates.k8s.io t:1", `spec: {signerName: t}`, nil, nil, nil},
		{"role bound to a service account", "rolebindings.rbac.authorization.k8s.io other/r", `{roleRef: {kind: Role, name: reader}, subjects: [{kind: ServiceAccount, namespace: other, name: default}]}`, []string{"plant-b"}, []string{"rolebindings.rbac.authorization.k8s.io other/r", "roles.rbac.authorization.k8s.io other/reader"}, nil},
		{"role bound to a namespace", "clusterrolebindings.rbac.authorization.k8s.io r", `{roleRef: {kind: ClusterRole, name: reader}, subjects: [{kind: Group, name: "system:serviceaccounts:default"}]}`, []string{"plant-a"}, []string{"clusterrolebindings.rbac.authorization.k8s.io r", "clusterroles.rbac.authorization.k8s.io reader"}, nil},
		{"role bound to all", "clusterrolebindings.rbac.authorization.k8s.io r", `{roleRef: {kind: ClusterRole, name: reader}, subjects: [{kind: Group, name: "system:serviceaccounts"}]}`, []string{"plant-a", "plant-b"}, []string{"clusterrolebindings.rbac.authorization.k8s.io r", "clusterroles.rbac.authorization.k8s.io reader"}, nil},
		{"role bound to nobody here", "rolebindings.rbac.authorization.k8s.io other/r", `{roleRef: {kind: Role, name: reader}, subjects: [{kind: ServiceAccount, namespace: other, name: unused}, {kind: User, name: bob}]}`, nil, nil, nil},
		{"volume attached to a node", "volumeattachments.storage.k8s.io csi-1", `spec: {nodeName: b1}`, []string{"plant-b"}, []string{"volumeattachments.storage.k8s.io csi-1"}, nil},
		{"volume attached in the cloud", "volumeattachments.storage.k8s.io csi-2", `spec: {nodeName: cloud}`, nil, nil, nil},
		{"pod of the cloud", "pods default/pc", `spec: {nodeName: cloud, containers: []}`, nil, nil, nil},
		{"node changes its site", "nodes b1", nodeOfA, []string{"plant-a", "plant-b"}, []string{"namespaces other", "nodes b1", "pods other/pb", "pods other/tls", "secrets other/sb", "serviceaccounts other/default"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := fresh()
			sites := see(t, c, tt.id, tt.body)
			if !slices.Equal(sites, tt.sites) {
				t.Fatalf("concerns %v, want %v", sites, tt.sites)
			}
			if len(sites) == 0 {
				return
			}
			changed, dropped := c.Recompute(sites[0])
			if got := ids(changed); !slices.Equal(got, tt.changed) {
				t.Errorf("%s gets %v, want %v", sites[0], got, tt.changed)
			}
			if got := ids(dropped); !slices.Equal(got, tt.dropped) {
				t.Errorf("%s loses %v, want %v", sites[0], got, tt.dropped)
			}
		})
	}
}

func TestClosureTakesAwayWhatIsNotNeeded(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	c.Recompute("plant-a")
	k := kube.CoreKey("pods", "default", "pa")
	if sites := c.Remove(k); !slices.Equal(sites, []string{"plant-a"}) {
		t.Fatalf("concerns %v", sites)
	}
	_, dropped := c.Recompute("plant-a")
	want := []string{"configmaps default/ca", "namespaces default", "pods default/pa", "serviceaccounts default/default"}
	if got := ids(dropped); !slices.Equal(got, want) {
		t.Errorf("dropped %v, want %v", got, want)
	}
	if sites := c.Wanting(kube.CoreKey("configmaps", "default", "ca")); len(sites) > 0 {
		t.Errorf("%v still want the ConfigMap", sites)
	}
}

// Bundles come and go with the pods that trust their signer.
func TestTrustBundlesFollowThePods(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	see(t, c, "clustertrustbundles.certificates.k8s.io s:1", `spec: {signerName: s}`)
	c.Recompute("plant-a")
	see(t, c, "pods default/tls", `spec: {nodeName: a1, containers: [], volumes: [{name: t, projected: {sources: [{clusterTrustBundle: {signerName: s}}]}}]}`)
	changed, _ := c.Recompute("plant-a")
	if got, want := ids(changed), []string{"clustertrustbundles.certificates.k8s.io s:1", "pods default/tls"}; !slices.Equal(got, want) {
		t.Errorf("the site gets %v, want %v", got, want)
	}
	if sites := see(t, c, "clustertrustbundles.certificates.k8s.io s:1", `spec: {signerName: other}`); !slices.Equal(sites, []string{"plant-a"}) {
		t.Errorf("a bundle of another signer now concerns %v", sites)
	}
	_, dropped := c.Recompute("plant-a")
	if got, want := ids(dropped), []string{"clustertrustbundles.certificates.k8s.io s:1"}; !slices.Equal(got, want) {
		t.Errorf("the site loses %v, want %v", got, want)
	}
	c.Remove(kube.CoreKey("pods", "default", "tls"))
	if sites := see(t, c, "clustertrustbundles.certificates.k8s.io s:2", `spec: {signerName: s}`); len(sites) > 0 {
		t.Errorf("a bundle that no pod trusts concerns %v", sites)
	}
}

// Bindings come and go with the pods that use the service account.
func TestRolesFollowThePods(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	see(t, c, "rolebindings.rbac.authorization.k8s.io default/robot", `{roleRef: {kind: Role, name: reader}, subjects: [{kind: ServiceAccount, namespace: default, name: robot}]}`)
	c.Recompute("plant-a")
	see(t, c, "pods default/robot", `spec: {nodeName: a1, serviceAccountName: robot, containers: []}`)
	want := []string{
		"pods default/robot", "rolebindings.rbac.authorization.k8s.io default/robot", "roles.rbac.authorization.k8s.io default/reader", "serviceaccounts default/robot",
	}
	if changed, _ := c.Recompute("plant-a"); !slices.Equal(ids(changed), want) {
		t.Errorf("the site gets %q, want %q", ids(changed), want)
	}
	if sites := c.Remove(kube.CoreKey("pods", "default", "robot")); !slices.Equal(sites, []string{"plant-a"}) {
		t.Errorf("the removal concerns %v", sites)
	}
	if _, dropped := c.Recompute("plant-a"); !slices.Equal(ids(dropped), want) {
		t.Errorf("the site loses %q, want %q", ids(dropped), want)
	}
}

func TestClosureKnowsNoSiteWithoutASiteObject(t *testing.T) {
	t.Parallel()
	c := New()
	see(t, c, "nodes a1", nodeOfA)
	if changed, _ := c.Recompute("plant-a"); len(changed) > 0 {
		t.Errorf("plant-a needs %v without a Site", ids(changed))
	}
}

func TestClosureListsWhatExists(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	see(t, c, "nodes lost", `metadata: {labels: {petiole.dev/site: plant-c}}`)
	see(t, c, "devices.devices.kubeedge.io plant/pump", `spec: {nodeName: a1}`)
	if got, want := slices.Sorted(c.Sites()), []string{"plant-a", "plant-b"}; !slices.Equal(got, want) || !c.Exists("plant-a") || c.Exists("plant-c") {
		t.Errorf("sites %v, want %v", got, want)
	}
	if got := c.Nodes("plant-c"); !slices.Equal(got, []string{"lost"}) {
		t.Errorf("nodes %v of a site without a Site", got)
	}
	for node, want := range map[string]string{"a1": "plant-a", "lost": "plant-c", "cloud": "", "unknown": ""} {
		if got := c.SiteOf(node); got != want {
			t.Errorf("node %s belongs to %q, want %q", node, got, want)
		}
	}
	if got, want := ids(slices.Collect(c.Bound("a1"))), []string{"devices.devices.kubeedge.io plant/pump", "pods default/pa"}; !slices.Equal(got, want) {
		t.Errorf("bound to a1 are %v, want %v", got, want)
	}
	c.Remove(kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: "plant-a"})
	if c.Exists("plant-a") {
		t.Error("a removed site exists")
	}
}

func TestClosureNodeTokens(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	see(t, c, "devices.devices.kubeedge.io plant/pump", `spec: {nodeName: a1}`)
	see(t, c, "volumeattachments.storage.k8s.io csi-1", `spec: {nodeName: a1}`)
	c.Recompute("plant-a")
	for id, want := range map[kube.Key]string{
		kube.CoreKey("nodes", "", "a1"):                                                  "a1",
		kube.CoreKey("pods", "default", "pa"):                                            "a1",
		kube.CoreKey("configmaps", "default", "ca"):                                      "",
		{Group: kube.StorageGroup, Resource: "volumeattachments", Name: "csi-1"}:         "a1",
		{Group: kube.DeviceGroup, Resource: "devices", Namespace: "plant", Name: "pump"}: "a1",
	} {
		if got, ok := c.Node("plant-a", id); !ok || got != want {
			t.Errorf("node token of %s = %q, %v; want %q", id.Ref(""), got, ok, want)
		}
	}
}

// A mirror pod, which a site creates itself, brings nothing that a node may not read: not its
// namespace, nor what is in it.
func TestMirrorPodsBringNothing(t *testing.T) {
	t.Parallel()
	x := New()
	see(t, x, "sites.petiole.dev plant-b", "")
	see(t, x, "nodes b1", nodeOfB)
	see(t, x, "namespaces kube-system", "")
	see(t, x, "services kube-system/dns", "")
	see(t, x, "endpointslices.discovery.k8s.io kube-system/dns-1", "")
	see(t, x, "pods kube-system/static-b1", `
metadata: {annotations: {kubernetes.io/config.mirror: hash}}
spec:
  nodeName: b1
  serviceAccountName: admin
  runtimeClassName: kata
  imagePullSecrets: [{name: pull}]
  containers: [{name: c, envFrom: [{secretRef: {name: s}}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
`)
	changed, _ := x.Recompute("plant-b")
	if got, want := ids(changed), []string{"nodes b1", "pods kube-system/static-b1", "runtimeclasses.node.k8s.io kata"}; !slices.Equal(got, want) {
		t.Errorf("the site gets %q, want %q", got, want)
	}
}
