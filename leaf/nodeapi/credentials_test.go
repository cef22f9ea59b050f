package nodeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// cloud answers token requests as the bridge does, until the link is cut.
func (l *leaf) cloud(answer func(streams.TokenQuery) streams.TokenAnswer) (cut func()) {
	l.t.Helper()
	sub, err := l.nc.Subscribe(streams.RequestSubject(site, streams.RequestToken), func(m *nats.Msg) {
		var q streams.TokenQuery
		if err := json.Unmarshal(m.Data, &q); err != nil {
			l.t.Errorf("query: %v", err)
		}
		b, err := json.Marshal(answer(q))
		if err != nil {
			l.t.Errorf("answer: %v", err)
		}
		if err := m.Respond(b); err != nil {
			l.t.Errorf("respond: %v", err)
		}
	})
	must(l.t, err)
	must(l.t, l.nc.Flush())
	return func() { must(l.t, sub.Unsubscribe()); must(l.t, l.nc.Flush()) }
}

func askToken(t *testing.T, c kubernetes.Interface, podUID string, audiences ...string) (*authenticationv1.TokenRequest, error) {
	t.Helper()
	seconds := int64(3607)
	return c.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "app", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: audiences, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "a", UID: types.UID("u-" + podUID)},
		},
	}, metav1.CreateOptions{})
}

func TestTokensSurviveLinkLossAndRestarts(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u-1", "10"))
	dir := t.TempDir()
	r := l.start(dir)
	if _, err := askToken(t, r.proto(), "1"); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "none is cached") {
		t.Fatalf("without cloud and copy: %v, want unavailable", err)
	}
	var asked atomic.Int32
	expired := metav1.NewTime(time.Now().Add(-time.Hour))
	cut := l.cloud(func(q streams.TokenQuery) streams.TokenAnswer {
		asked.Add(1)
		if q.Node != node || q.Namespace != "default" || q.ServiceAccount != "app" {
			t.Errorf("query = %+v", q)
		}
		tr := q.TokenRequest.DeepCopy()
		// The API server fills in its own audience if the request has none.
		if len(tr.Spec.Audiences) == 0 {
			tr.Spec.Audiences = []string{"https://kubernetes.default.svc"}
		}
		tr.Status = authenticationv1.TokenRequestStatus{Token: "secret-" + strings.Join(q.TokenRequest.Spec.Audiences, "+"), ExpirationTimestamp: expired}
		return streams.TokenAnswer{TokenRequest: tr}
	})
	for _, aud := range [][]string{nil, {"vault"}} {
		got, err := askToken(t, r.proto(), "1", aud...)
		must(t, err)
		if got.Status.Token != "secret-"+strings.Join(aud, "+") || !got.Status.ExpirationTimestamp.Time.Equal(expired.Truncate(time.Second)) {
			t.Errorf("token = %+v", got)
		}
	}
	cut()
	r.stop()
	files, err := filepath.Glob(filepath.Join(dir, "tokens", "*"))
	must(t, err)
	if len(files) != 2 {
		t.Fatalf("token files: %v", files)
	}
	for _, f := range append(files, filepath.Join(dir, "tokens.key"), filepath.Join(dir, "kubelet.token")) {
		b, err := os.ReadFile(f)
		must(t, err)
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 || bytes.Contains(b, []byte("secret")) {
			t.Errorf("%s: %v, %v, plain text: %v", f, info.Mode(), err, bytes.Contains(b, []byte("secret")))
		}
	}
	r = l.start(dir)
	for _, c := range []kubernetes.Interface{r.json(), r.proto()} {
		begin := time.Now()
		got, err := askToken(t, c, "1")
		must(t, err)
		if got.Status.Token != "secret-" || time.Until(got.Status.ExpirationTimestamp.Time) < 50*time.Minute {
			t.Errorf("offline token = %+v", got.Status)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("a link that is known to be down cost %v", d)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the cloud was asked %d times", n)
	}
	if _, err := askToken(t, r.proto(), "2"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("token of another pod: %v", err)
	}
	// The pod is deleted, and its tokens with it.
	r.applied(l.send(podRef("default", "a"), streams.OpDelete, "u-1", "11", nil))
	eventually(t, "tokens removed", func() bool {
		files, err := filepath.Glob(filepath.Join(dir, "tokens", "*"))
		return err == nil && len(files) == 0
	})
}

func TestRefusedTokenIsNotServedFromTheCache(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u-1", "10"))
	r := l.start(t.TempDir())
	var status atomic.Pointer[metav1.Status]
	l.cloud(func(q streams.TokenQuery) streams.TokenAnswer {
		if s := status.Load(); s != nil {
			return streams.TokenAnswer{Status: s}
		}
		tr := q.TokenRequest.DeepCopy()
		tr.Status.Token = "secret"
		return streams.TokenAnswer{TokenRequest: tr}
	})
	_, err := askToken(t, r.proto(), "1")
	must(t, err)
	refused := apierrors.NewNotFound(serviceAccounts, "app").Status()
	status.Store(&refused)
	if _, err := askToken(t, r.proto(), "1"); !apierrors.IsNotFound(err) {
		t.Errorf("refused: %v, want the API server's word", err)
	}
	away := apierrors.NewServiceUnavailable("API server away").Status()
	status.Store(&away)
	if tr, err := askToken(t, r.proto(), "1"); err != nil || tr.Status.Token != "secret" {
		t.Errorf("API server away: %v", err)
	}
}

func podCertificateRequest(pod, uid string) *certificatesv1.PodCertificateRequest {
	return &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "req-", Finalizers: []string{"example.com/for-ever"}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/mesh", PodName: pod, PodUID: types.UID(uid), ServiceAccountName: "app", NodeName: node, StubPKCS10Request: []byte("x"),
		},
	}
}

// A request for a certificate is created by the cloud, with the name that the cloud gives it, and
// is seen here when it comes back.
func TestPodCertificateRequests(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("web", "u1", "10"))
	r := l.start(t.TempDir())
	client := func() certificatesclient.PodCertificateRequestInterface {
		return r.proto().CertificatesV1().PodCertificateRequests("default")
	}
	create := func(pod, uid string) (*certificatesv1.PodCertificateRequest, error) {
		return client().Create(t.Context(), podCertificateRequest(pod, uid), metav1.CreateOptions{})
	}
	if _, err := create("web", "u1"); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "default/web") {
		t.Errorf("without a cloud: %v, want unavailable", err)
	}
	var refused atomic.Pointer[metav1.Status]
	sub, err := l.nc.Subscribe(streams.RequestSubject(site, streams.RequestPodCertificate), func(m *nats.Msg) {
		var q streams.PodCertificateQuery
		if err := json.Unmarshal(m.Data, &q); err != nil || q.Node != node || q.Namespace != "default" || q.Spec.PodName != "web" {
			t.Errorf("query %s: %v", m.Data, err)
		}
		answer := streams.PodCertificateAnswer{Status: refused.Load()}
		if answer.Status == nil {
			answer.Request = &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "req-x7", UID: "u-cloud", ResourceVersion: "77"}, Spec: q.Spec}
		}
		b, err := json.Marshal(answer)
		if err == nil {
			err = m.Respond(b)
		}
		if err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	must(t, err)
	must(t, l.nc.Flush())
	defer func() { must(t, sub.Unsubscribe()) }()
	created, err := create("web", "u1")
	must(t, err)
	if created.Name != "req-x7" || created.UID != "u-cloud" || created.ResourceVersion != "" || created.Spec.SignerName != "example.com/mesh" {
		t.Errorf("created %+v", created)
	}
	for _, pod := range [][2]string{{"web", "u2"}, {"none", "u1"}} {
		if _, err := create(pod[0], pod[1]); !apierrors.IsForbidden(err) {
			t.Errorf("for pod %s with UID %s: %v, want a refusal", pod[0], pod[1], err)
		}
	}
	no := apierrors.NewForbidden(objects.PodCertificateRequests, "web", errors.New("no such signer")).Status()
	refused.Store(&no)
	if _, err := create("web", "u1"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no such signer") {
		t.Errorf("refused: %v, want the API server's word", err)
	}

	own := metav1.ListOptions{FieldSelector: "spec.nodeName=" + node}
	ref := streams.Ref{Node: node, Group: "certificates.k8s.io", Resource: "podcertificaterequests", Namespace: "default", Name: "req-x7"}
	signed := podCertificateRequest("web", "u1")
	signed.TypeMeta = metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "PodCertificateRequest"}
	signed.Name, signed.UID, signed.ResourceVersion = "req-x7", "u-cloud", "78"
	signed.Status.CertificateChain = "chain"
	r.applied(l.send(ref, streams.OpPut, "u-cloud", "78", signed))
	list, err := r.proto().CertificatesV1().PodCertificateRequests("").List(t.Context(), own)
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].Status.CertificateChain != "chain" {
		t.Errorf("the kubelet sees %+v", list.Items)
	}
	r.applied(l.send(ref, streams.OpDelete, "u-cloud", "79", nil))
	if list, err = r.proto().CertificatesV1().PodCertificateRequests("").List(t.Context(), own); err != nil || len(list.Items) != 0 {
		t.Errorf("after its deletion the kubelet sees %+v, %v", list.Items, err)
	}
}
