package nodeapi

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/streams"
)

// issued returns a token like the API server's, with a number that makes it another one.
func issued(number int, expires time.Time) string {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d,"jti":"%d"}`, expires.Unix(), number))
	return "e30." + claims + ".c2ln"
}

// desired publishes an object that no node owns.
func (l *leaf) desired(group, resource, namespace, name string, object runtime.Object) {
	l.t.Helper()
	l.send(streams.Ref{Group: group, Resource: resource, Namespace: namespace, Name: name}, streams.OpPut, "u-"+resource+"-"+name, "5", object)
}

// cluster publishes what a site has of a cluster: the service of the API server, and a service
// account that may read the ConfigMaps of its namespace, one by name elsewhere, and all Services.
func (l *leaf) cluster() {
	l.t.Helper()
	rbac := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
	}
	app := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "app"}}
	l.desired("", "services", "default", "kubernetes", &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
	})
	port := int32(6443)
	l.desired("discovery.k8s.io", "endpointslices", "default", "kubernetes", &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"203.0.113.7"}}}, Ports: []discoveryv1.EndpointPort{{Port: &port}},
	})
	l.desired("", "configmaps", "default", "kube-root-ca.crt", &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kube-root-ca.crt"},
		Data: map[string]string{"ca.crt": "# the cluster's\n"},
	})
	for _, name := range []string{"app", "idle"} {
		l.desired("", "serviceaccounts", "default", name, &corev1.ServiceAccount{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		})
	}
	l.desired(rbacv1.GroupName, "roles", "default", "reader", &rbacv1.Role{
		TypeMeta: rbac("Role"), ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "reader"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch", "update"}}},
	})
	l.desired(rbacv1.GroupName, "rolebindings", "default", "reader", &rbacv1.RoleBinding{
		TypeMeta: rbac("RoleBinding"), ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "reader"}, Subjects: app, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
	})
	l.desired(rbacv1.GroupName, "clusterroles", "", "services", &rbacv1.ClusterRole{
		TypeMeta: rbac("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: "services"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"", "discovery.k8s.io"}, Resources: []string{"services", "endpointslices"}, Verbs: []string{"*"}},
			{APIGroups: []string{""}, Resources: []string{"nodes"}, ResourceNames: []string{node}, Verbs: []string{"get", "watch"}},
		},
	})
	l.desired(rbacv1.GroupName, "clusterrolebindings", "", "services", &rbacv1.ClusterRoleBinding{
		TypeMeta: rbac("ClusterRoleBinding"), ObjectMeta: metav1.ObjectMeta{Name: "services"}, Subjects: app, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "services"},
	})
}

// inCluster returns the client of a pod with a token, at the address and with the authority that the
// site's objects say.
func (r *running) inCluster(token string) kubernetes.Interface {
	t := r.leaf.t
	t.Helper()
	c := r.json()
	slice, err := c.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	must(t, err)
	ca, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
	must(t, err)
	if !strings.HasPrefix(ca.Data["ca.crt"], "# the cluster's\n") || len(slice.Endpoints) != 1 {
		t.Fatalf("ca.crt %q, endpoints %+v", ca.Data["ca.crt"], slice.Endpoints)
	}
	pod, err := kubernetes.NewForConfig(&rest.Config{
		Host: fmt.Sprintf("https://%s:%d", slice.Endpoints[0].Addresses[0], *slice.Ports[0].Port), BearerToken: token,
		// As the service's address, to which kube-proxy leads.
		TLSClientConfig: rest.TLSClientConfig{CAData: []byte(ca.Data["ca.crt"]), ServerName: "10.96.0.1"},
	})
	must(t, err)
	return pod
}

// TestPodsReadWhatTheirRolesAllow lets a pod call the API with the token of its service account, also
// after a restart without the cloud and with the token that was replaced: it gets what its roles
// allow, and a refusal otherwise. Other tokens are refused.
func TestPodsReadWhatTheirRolesAllow(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.listenPods = netip.MustParseAddrPort("127.0.0.1:0")
	l.cluster()
	l.pod(newPod("a", "u-1", "10"))
	dir := t.TempDir()
	r := l.start(dir)
	number := 0
	cut := l.cloud(func(q streams.TokenQuery) streams.TokenAnswer {
		tr := q.TokenRequest.DeepCopy()
		number++
		tr.Status = authenticationv1.TokenRequestStatus{Token: issued(number, time.Now().AddDate(1, 0, 0)), ExpirationTimestamp: metav1.NewTime(time.Now().Add(-time.Hour))}
		return streams.TokenAnswer{TokenRequest: tr}
	})
	ask := func(audiences ...string) string {
		answer, err := askToken(t, r.proto(), "1", audiences...)
		must(t, err)
		return answer.Status.Token
	}
	replaced, vault := ask(), ask("vault")
	current := ask()
	cut()
	r.stop()
	r = l.start(dir)
	nodeToken, err := r.Token()
	must(t, err)
	for name, token := range map[string]string{"none": "", "of the node": nodeToken, "of another audience": vault, "of another cluster": issued(99, time.Now().Add(time.Hour))} {
		if _, err := r.inCluster(token).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("token %s: %v, want unauthorized", name, err)
		}
	}
	for _, token := range []string{replaced, current} {
		r.readsWhatItMay(r.inCluster(token))
	}
	// A role that the cloud withdraws no longer counts.
	seq := l.send(streams.Ref{Group: rbacv1.GroupName, Resource: "rolebindings", Namespace: "default", Name: "reader"}, streams.OpDelete, "u-rolebindings-reader", "20", nil)
	r.applied(seq)
	if _, err := r.inCluster(current).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("after the role was withdrawn: %v, want forbidden", err)
	}
	// A token ends with its pod, and at its time.
	r.applied(l.send(podRef("default", "a"), streams.OpDelete, "u-1", "21", nil))
	eventually(t, "token of a deleted pod refused", func() bool {
		_, err := r.inCluster(current).CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		return apierrors.IsUnauthorized(err)
	})
	l.pod(newPod("a", "u-1", "30"))
	l.cloud(func(q streams.TokenQuery) streams.TokenAnswer {
		tr := q.TokenRequest.DeepCopy()
		tr.Status = authenticationv1.TokenRequestStatus{Token: issued(100, time.Now().Add(-time.Minute))}
		return streams.TokenAnswer{TokenRequest: tr}
	})
	if _, err := r.inCluster(ask()).CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired token: %v", err)
	}
}

func (r *running) readsWhatItMay(c kubernetes.Interface) {
	t, ctx := r.leaf.t, r.leaf.t.Context()
	t.Helper()
	if l, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); err != nil || len(l.Items) != 1 {
		t.Errorf("list of the namespace's ConfigMaps: %v, %v", l, err)
	}
	w, err := c.CoreV1().Services("").Watch(ctx, metav1.ListOptions{})
	must(t, err)
	w.Stop()
	if _, err := c.Discovery().ServerVersion(); err != nil {
		t.Errorf("discovery: %v", err)
	}
	// Nothing is there, but it is allowed to look.
	if _, err := c.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of a node by name: %v", err)
	}
	byName, err := c.CoreV1().Nodes().Watch(ctx, metav1.SingleObject(metav1.ObjectMeta{Name: node}))
	must(t, err)
	byName.Stop()
	_, all := c.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
	_, nodes := c.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	_, other := c.CoreV1().Nodes().Get(ctx, "other", metav1.GetOptions{})
	_, secrets := c.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	_, write := c.CoreV1().ConfigMaps("default").Update(ctx, newConfigMap("kube-root-ca.crt", "", "", "x"), metav1.UpdateOptions{})
	_, logs := c.CoreV1().Pods("default").GetLogs("a", &corev1.PodLogOptions{}).DoRaw(ctx)
	for what, err := range map[string]error{"all ConfigMaps": all, "all nodes": nodes, "another node": other, "Secrets": secrets, "a write": write, "logs": logs} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want forbidden", what, err)
		}
	}
	if !strings.Contains(secrets.Error(), `"system:serviceaccount:default:app" cannot list resource "secrets"`) {
		t.Errorf("refused with %v", secrets)
	}
}
