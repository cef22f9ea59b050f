package join

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/requests"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/siege"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/join"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is the bridge's part of a join, with a Site for each of sites that has an open token.
type service struct {
	t      *testing.T
	api    *fake.FakeDynamicClient
	hub    *natstest.Hub
	nc     *nats.Conn
	tokens map[string]join.Token
}

// cache has the Sites as they are.
type cache struct{ api *fake.FakeDynamicClient }

func (c cache) Get(k kube.Key) *unstructured.Unstructured {
	o, err := c.api.Tracker().Get(v1alpha1.Sites, "", k.Name)
	if err != nil {
		return nil
	}
	return o.(*unstructured.Unstructured)
}

func startService(t *testing.T, sites ...string) *service {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, "keys", name) }
	must(t, accounts.WriteHub(filepath.Join(dir, "keys"), filepath.Join(dir, "accounts")))
	keys, err := accounts.LoadKeys(accounts.Files{OperatorKey: file(accounts.SigningKeyFile), SiteKey: file(accounts.SiteKeyFile), Bridge: file(accounts.BridgeCreds)})
	must(t, err)
	s := &service{t: t, tokens: map[string]join.Token{}}
	var objects []runtime.Object
	for _, site := range sites {
		pair, err := nkeys.CreateUser()
		must(t, err)
		public, err := pair.PublicKey()
		must(t, err)
		expires := time.Now().Add(time.Hour)
		user, err := keys.JoinUserToken(site, accounts.JoinToken{Key: public, Expires: expires}, "")
		must(t, err)
		s.tokens[site], err = join.NewToken(site, pair, user, nil)
		must(t, err)
		o := v1alpha1.Site{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Site"}, ObjectMeta: metav1.ObjectMeta{Name: site, UID: "u"},
			Spec: v1alpha1.SiteSpec{Join: &v1alpha1.SiteJoin{Key: public, Expires: metav1.NewTime(expires)}},
		}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&o)
		must(t, err)
		objects = append(objects, &unstructured.Unstructured{Object: content})
	}
	s.api = fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{v1alpha1.Sites: "SiteList"}, objects...)
	s.hub = natstest.StartHub(t)
	s.nc = s.hub.Connect(t, "bridge")
	server := requests.New(map[string]requests.Handler{
		join.Verb: Handler(Config{Keys: keys, Cache: cache{s.api}, Client: s.api, Log: zap.NewNop()}),
	}, func() {}, zap.NewNop())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- server.Run(ctx, s.nc) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	must(t, s.nc.Flush())
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// request returns a request of a new gateway.
func (s *service) request(site string) (data []byte, gateway string) {
	s.t.Helper()
	pair, err := nkeys.CreateUser()
	must(s.t, err)
	gateway, err = pair.PublicKey()
	must(s.t, err)
	data, err = join.Request{Host: "gw"}.Encode(s.tokens[site], pair)
	must(s.t, err)
	return data, gateway
}

// ask sends a request and returns the answer, and how long it took.
func (s *service) ask(site string, data []byte) (join.Answer, time.Duration) {
	s.t.Helper()
	start := time.Now()
	m, err := s.nc.Request(streams.RequestSubject(site, join.Verb), data, 10*time.Second)
	must(s.t, err)
	took := time.Since(start)
	var signed join.SignedAnswer
	must(s.t, json.Unmarshal(m.Data, &signed))
	var a join.Answer
	must(s.t, json.Unmarshal(signed.Body, &a))
	return a, took
}

func (s *service) writes() (n int) {
	for _, a := range s.api.Actions() {
		if a.GetVerb() == "patch" {
			n++
		}
	}
	return n
}

// TestRequestIsGoodForItsGatewayOnly has what somebody heard on the line sent again: as it is, for
// another site, changed, and after the gateway was revoked.
func TestRequestIsGoodForItsGatewayOnly(t *testing.T) {
	s := startService(t, "plant-a", "plant-b")
	data, gateway := s.request("plant-a")
	if a, _ := s.ask("plant-a", data); a.Code != join.Accepted {
		t.Fatalf("%+v", a)
	}
	if a, _ := s.ask("plant-a", data); a.Code != join.Accepted || s.writes() != 1 {
		t.Errorf("the same request again: %s, %d writes; want Accepted for the same gateway, and 1", a.Code, s.writes())
	}
	if a, _ := s.ask("plant-b", data); a.Code != join.Withdrawn {
		t.Errorf("for another site: %s", a.Code)
	}
	var signed map[string][]byte
	must(t, json.Unmarshal(data, &signed))
	other, _ := s.request("plant-a")
	var theirs map[string][]byte
	must(t, json.Unmarshal(other, &theirs))
	signed["body"] = []byte(strings.Replace(string(signed["body"]), `"host":"gw"`, `"host":"gx"`, 1))
	changed, err := json.Marshal(signed)
	must(t, err)
	if a, _ := s.ask("plant-a", changed); a.Code != join.Invalid {
		t.Errorf("changed: %s", a.Code)
	}
	theirs["tokenSignature"] = signed["tokenSignature"]
	mixed, err := json.Marshal(theirs)
	must(t, err)
	if a, _ := s.ask("plant-a", mixed); a.Code != join.Invalid {
		t.Errorf("another gateway's with the signature of the first: %s", a.Code)
	}
	if a, _ := s.ask("plant-a", other); a.Code != join.Used || !strings.Contains(a.Message, gateway) {
		t.Errorf("another gateway: %+v", a)
	}
	_, err = s.api.Resource(v1alpha1.Sites).Patch(t.Context(), "plant-a", "application/merge-patch+json", []byte(`{"spec":{"gateways":null}}`), metav1.PatchOptions{})
	must(t, err)
	if a, _ := s.ask("plant-a", data); a.Code != join.Revoked || a.JWT != "" {
		t.Errorf("after the gateway was revoked: %+v", a)
	}
}

// TestOneAskerKeepsNobodyOut: whoever guesses tokens, or has one of plant-b, sends as much as the line
// carries: guesses, what is too large, and garbage. Gateways of other sites join meanwhile, and
// what was sent costs no request to the API server.
func TestOneAskerKeepsNobodyOut(t *testing.T) {
	const others = 60
	sites := []string{"plant-b"}
	for i := range others {
		sites = append(sites, fmt.Sprint("plant-", i))
	}
	s := startService(t, sites...)
	flood := s.hub.Connect(t, "bridge")
	guess := startService(t, "plant-b") // another hub's: its tokens are not these
	guessed, _ := guess.request("plant-b")
	large := append(slices.Clone(guessed), make([]byte, 60<<10)...)
	stop := make(chan struct{})
	var sent atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, data := range [][]byte{guessed, large, []byte(`{"body":"e30="}`), []byte("\x00")} {
				if err := flood.PublishRequest(streams.RequestSubject("plant-b", join.Verb), "_INBOX.nobody", data); err != nil {
					t.Error(err)
				}
				sent.Add(1)
			}
			if err := flood.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	var took []time.Duration
	for i := range others {
		site := fmt.Sprint("plant-", i)
		data, gateway := s.request(site)
		a, d := s.ask(site, data)
		if a.Code != join.Accepted {
			t.Errorf("site %s, gateway %s: %+v", site, gateway, a)
		}
		took = append(took, d)
	}
	close(stop)
	wg.Wait()
	slices.Sort(took)
	t.Logf("MEASURED %d requests of one asker; %d others joined, each within p50 %s, longest %s; writes %d", sent.Load(), others, took[others/2], took[others-1], s.writes())
	siege.CheckAnswered(t, took[others-1])
	if s.writes() != others {
		t.Errorf("%d writes, want %d", s.writes(), others)
	}
	if n := len(s.api.Actions()); n > 2*others {
		t.Errorf("%d requests to the API server, want %d: a guess costs one", n, 2*others)
	}
}
