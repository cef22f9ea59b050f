package nodeapi

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

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
