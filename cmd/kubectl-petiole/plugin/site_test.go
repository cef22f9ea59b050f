package plugin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams/join"
)

// siteServer is an API server with Sites and Nodes, and a bridge that makes accounts.
type siteServer struct {
	apiServer
	mu        sync.Mutex
	sites     map[string]*v1alpha1.Site
	conflicts int
	deleted   []string
	// issuer signs the JWTs of join tokens, which have the URL.
	issuer nkeys.KeyPair
	url    string
}

// list answers with one object.
func (a *siteServer) list(w http.ResponseWriter, kind string, metadata map[string]any) {
	a.answer(w, http.StatusOK, map[string]any{"apiVersion": "v1", "kind": kind + "List", "items": []any{map[string]any{"apiVersion": "v1", "kind": kind, "metadata": metadata}}})
}

func (a *siteServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name, one := strings.CutPrefix(r.URL.Path, "/apis/petiole.dev/v1alpha1/sites/")
	switch {
	case r.URL.Path == "/api/v1/nodes" && r.Method == http.MethodGet:
		a.list(w, "Node", map[string]any{"name": "plant-b-1", "uid": "n"})
	case r.URL.Path == "/api/v1/pods" && r.Method == http.MethodGet:
		a.list(w, "Pod", map[string]any{"name": "web on " + r.URL.Query().Get("fieldSelector"), "namespace": "default", "uid": "p"})
	case strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/default/pods/") && r.Method == http.MethodDelete:
		var o metav1.DeleteOptions
		a.decode(r.Body, &o)
		a.deleted = append(a.deleted, fmt.Sprintf("%s, UID %s, grace %d", path.Base(r.URL.Path), *o.Preconditions.UID, *o.GracePeriodSeconds))
		a.answer(w, http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	case r.URL.Path == "/api/v1/nodes" && r.Method == http.MethodDelete:
		a.deleted = append(a.deleted, r.URL.Query().Get("labelSelector"))
		a.answer(w, http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	case !one && r.Method == http.MethodPost:
		var s v1alpha1.Site
		a.decode(r.Body, &s)
		a.sites[s.Name] = &s
		a.reconcile(&s)
		a.answer(w, http.StatusCreated, s)
	case a.sites[name] == nil:
		a.apiServer.ServeHTTP(w, r)
	case r.Method == http.MethodPatch:
		s := a.sites[name]
		var patch struct {
			Metadata map[string]string
			Spec     map[string]json.RawMessage
		}
		a.decode(r.Body, &patch)
		if v, ok := patch.Metadata["resourceVersion"]; ok && (v != s.ResourceVersion || a.conflicts > 0) {
			a.conflicts--
			a.answer(w, http.StatusConflict, metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict,
			})
			return
		}
		for field, into := range map[string]*[]string{"gateways": &s.Spec.Gateways, "operators": &s.Spec.Operators} {
			if value, ok := patch.Spec[field]; ok {
				*into = nil
				if err := json.Unmarshal(value, into); err != nil {
					a.t.Error(err)
				}
			}
		}
		if value, ok := patch.Spec["join"]; ok {
			s.Spec.Join = nil
			if err := json.Unmarshal(value, &s.Spec.Join); err != nil {
				a.t.Error(err)
			}
		}
		a.reconcile(s)
		a.answer(w, http.StatusOK, s)
	default:
		a.answer(w, http.StatusOK, a.sites[name])
	}
}

// reconcile does what the bridge does.
func (a *siteServer) reconcile(s *v1alpha1.Site) {
	n, _ := strconv.Atoi(s.ResourceVersion)
	s.ResourceVersion = strconv.Itoa(n + 1)
	s.Status.Access = &v1alpha1.SiteAccess{Account: "A"}
	c := metav1.Condition{Type: v1alpha1.ConditionAccountReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccountStored}
	for _, key := range s.Spec.Gateways {
		s.Status.Access.Gateways = append(s.Status.Access.Gateways, v1alpha1.SiteUser{Key: key, JWT: "jwt-of-" + key})
	}
	if len(s.Spec.Gateways) == 0 {
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonNoGateway
	}
	meta.SetStatusCondition(&s.Status.Conditions, c)
	if j := s.Spec.Join; j != nil {
		claims := jwt.NewUserClaims(j.Key)
		claims.Name, claims.Expires = join.UserName(s.Name), j.Expires.Unix()
		token, err := claims.Encode(a.issuer)
		if err != nil {
			a.t.Error(err)
		}
		s.Status.Access.Join = &v1alpha1.SiteJoinAccess{Key: j.Key, JWT: token, URL: a.url}
	}
}

// TestJoinTokens: site create and rejoin print a token that is that of the Site, and the API server
// has no part of its secret.
func TestJoinTokens(t *testing.T) {
	issuer, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	a := &siteServer{apiServer: apiServer{t: t}, sites: map[string]*v1alpha1.Site{}, issuer: issuer, url: "tls://hub.example.com:7422"}
	run := a.startWith(httptest.NewServer(a))
	for _, c := range []struct {
		args    string
		ttl     time.Duration
		replace bool
		url     string
	}{
		{"site create plant-c --node press-1", time.Hour, false, "tls://hub.example.com:7422"},
		{"site rejoin plant-c", time.Hour, false, "tls://hub.example.com:7422"},
		{"site rejoin plant-c --only --ttl 10m", 10 * time.Minute, true, ""},
		{"site rejoin plant-c --print-token", time.Hour, false, ""},
	} {
		if c.url == "" {
			a.url = ""
		}
		start := time.Now()
		code, out, errOut := run(strings.Fields(c.args)...)
		if code != 0 {
			t.Fatalf("%s: exit code %d: %s", c.args, code, errOut)
		}
		words := strings.Fields(out)
		token, err := join.ParseToken(words[len(words)-1])
		if err != nil {
			t.Fatalf("%s: %v", c.args, err)
		}
		j := a.sites["plant-c"].Spec.Join
		if token.Site != "plant-c" || token.Public() != j.Key || j.Replace != c.replace || j.UsedBy != "" {
			t.Errorf("%s: the token is of site %s with key %s; the Site has %+v", c.args, token.Site, token.Public(), j)
		}
		if left := token.Expires().Sub(start); left < c.ttl-2*time.Second || left > c.ttl+time.Minute {
			t.Errorf("%s: the token expires after %s, want %s", c.args, left, c.ttl)
		}
		seed := strings.Split(token.String(), ".")[1]
		if data, err := json.Marshal(a.sites["plant-c"]); err != nil || strings.Contains(string(data), seed) {
			t.Errorf("%s: the API server has the secret (%v)", c.args, err)
		}
		if only := len(words) == 1; only != strings.Contains(c.args, "--print-token") {
			t.Errorf("%s: prints %q", c.args, out)
		} else if !only && !strings.Contains(out, "leaf join "+cmp.Or(c.url, "tls://HUB:7422")+" ") {
			t.Errorf("%s: prints %q", c.args, out)
		}
	}
	if names := a.sites["plant-c"].Spec.Nodes.Names; !slices.Equal(names, []string{"press-1"}) {
		t.Errorf("the Site has the nodes %v", names)
	}
	for args, want := range map[string]string{"site create plant-d --ttl 1s": "must be 1m0s to 168h0m0s", "site rejoin plant-c --ttl 200h": "must be", "site rejoin nowhere": "not found"} {
		if code, out, errOut := run(strings.Fields(args)...); code == 0 || !strings.Contains(errOut, want) || strings.Contains(out, "leaf join") {
			t.Errorf("%s: exit code %d, prints %q and %q", args, code, out, errOut)
		}
	}
	if code, _, errOut := run("site", "revoke", "plant-c", "--keep-nodes"); code != 0 || a.sites["plant-c"].Spec.Join != nil {
		t.Errorf("revoke: exit code %d: %s; the Site has the token %v", code, errOut, a.sites["plant-c"].Spec.Join)
	}
}

func TestSiteCommands(t *testing.T) {
	a := &siteServer{apiServer: apiServer{t: t}, sites: map[string]*v1alpha1.Site{}}
	run := a.startWith(httptest.NewServer(a))
	gateways := func(want ...string) {
		t.Helper()
		if got := a.sites["plant-b"].Spec.Gateways; !slices.Equal(got, want) {
			t.Errorf("the Site lists %v, want %v", got, want)
		}
	}
	for _, step := range []struct {
		args, out string
		gateways  []string
	}{
		{"site create plant-b --gateway UA --description text", "site.petiole.dev/plant-b created\n", []string{"UA"}},
		{"site jwt plant-b", "jwt-of-UA\n", []string{"UA"}},
		{"site rejoin plant-b UB", "site.petiole.dev/plant-b lets these gateways connect: UA, UB\n", []string{"UA", "UB"}},
		{"site rejoin plant-b UB", "site.petiole.dev/plant-b lets these gateways connect: UA, UB\n", []string{"UA", "UB"}},
		{"site jwt plant-b", "jwt-of-UB\n", []string{"UA", "UB"}},
		{"site jwt plant-b UA", "jwt-of-UA\n", []string{"UA", "UB"}},
		{"site rejoin plant-b UB --only", "site.petiole.dev/plant-b lets these gateways connect: UB\n", []string{"UB"}},
		{"site revoke plant-b --keep-nodes", "site.petiole.dev/plant-b revoked\n", nil},
		{"site revoke plant-b", "site.petiole.dev/plant-b revoked\n", nil},
	} {
		a.conflicts = 1 // the bridge writes the status meanwhile
		code, out, errOut := run(strings.Fields(step.args)...)
		if code != 0 || out != step.out {
			t.Errorf("%s: exit code %d, printed %q and %q, want %q", step.args, code, out, errOut, step.out)
		}
		gateways(step.gateways...)
	}
	if want := []string{"petiole.dev/site=plant-b", "web on spec.nodeName=plant-b-1, UID p, grace 0"}; !slices.Equal(a.deleted, want) {
		t.Errorf("deleted: %q, want %q", a.deleted, want)
	}
	for _, args := range []string{"site revoke nowhere", "site rejoin nowhere UA", "site jwt nowhere", "site create", "site rejoin"} {
		if code, _, errOut := run(strings.Fields(args)...); code == 0 || errOut == "" {
			t.Errorf("%s: exit code %d, printed %q", args, code, errOut)
		}
	}
}
