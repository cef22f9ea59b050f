package nodeapi

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestForeignWritesPointToTheCloud(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.configMap(newConfigMap("a", "u1", "10", "x"))
	l.pod(newPod("p", "u2", "11"))
	r := l.start(t.TempDir())
	encodings(t, r, func(t *testing.T, c kubernetes.Interface) {
		ctx := t.Context()
		cms, pods := c.CoreV1().ConfigMaps("default"), c.CoreV1().Pods("default")
		_, create := cms.Create(ctx, newConfigMap("b", "", "", ""), metav1.CreateOptions{})
		_, update := cms.Update(ctx, newConfigMap("a", "u1", "", "y"), metav1.UpdateOptions{})
		_, patch := cms.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"key":"y"}}`), metav1.PatchOptions{})
		_, pod := pods.Patch(ctx, "p", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
		for name, err := range map[string]error{
			"create": create, "update": update, "patch": patch, "pod": pod,
			"delete":     cms.Delete(ctx, "a", metav1.DeleteOptions{}),
			"collection": cms.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
			"evict":      pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}),
		} {
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cloud's API server") {
				t.Errorf("%s: %v, want forbidden with a way out", name, err)
			}
		}
	})
}

// TestKubeconfigIsWrittenOnce writes a kubeconfig again to a folder that takes no more files, as a full
// disk does: the one that is up to date stays.
func TestKubeconfigIsWrittenOnce(t *testing.T) {
	t.Parallel()
	r := newLeaf(t).start(t.TempDir())
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, r.WriteKubeconfig(path, "kubelet"))
	// Where the new file would be written is a folder.
	must(t, os.Mkdir(filepath.Join(filepath.Dir(path), ".kubeconfig.next"), 0o700))
	must(t, r.WriteKubeconfig(path, "kubelet"))
	if err := r.WriteKubeconfig(path, "another"); err == nil {
		t.Error("another kubeconfig was written: the test has proved nothing")
	}
}

func TestOnlyTheNodesTokenIsServed(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	cfg := r.restConfig()
	anonymous := rest.AnonymousClientConfig(cfg)
	for _, token := range []string{"", "wrong"} {
		anonymous.BearerToken = token
		c, err := kubernetes.NewForConfig(anonymous)
		must(t, err)
		if _, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("token %q: %v, want unauthorized", token, err)
		}
	}
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(cfg))
	must(t, err)
	resp, err := (&http.Client{Transport: transport}).Get(r.URL() + "/healthz")
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %s", resp.Status)
	}
	v, err := r.json().Discovery().ServerVersion()
	must(t, err)
	if v.Major != "1" || v.Minor != "37" {
		t.Errorf("version = %+v", v)
	}
	first, err := r.Token()
	must(t, err)
	r.stop()
	if again, err := l.start(dir).Token(); err != nil || again != first {
		t.Errorf("the token changed with a restart: %v", err)
	}
}

func TestReviews(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	r := l.start(t.TempDir())
	c := r.proto()
	token, err := r.Token()
	must(t, err)
	for tok, want := range map[string]bool{token: true, "other": false} {
		tr, err := c.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tok}}, metav1.CreateOptions{})
		must(t, err)
		if tr.Status.Authenticated != want || want && tr.Status.User.Username != "system:node:"+node {
			t.Errorf("review = %+v", tr.Status)
		}
	}
	for user, want := range map[string]bool{"system:node:" + node: true, "system:anonymous": false} {
		sar, err := c.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{Resource: "nodes", Subresource: "proxy", Verb: "get"}},
		}, metav1.CreateOptions{})
		must(t, err)
		if sar.Status.Allowed != want {
			t.Errorf("%s allowed = %v", user, sar.Status.Allowed)
		}
	}
}
