package plugin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// siteServer is an API server with Sites and Nodes, and a bridge that makes accounts.
type siteServer struct {
	apiServer
	mu        sync.Mutex
	sites     map[string]*v1alpha1.Site
	conflicts int
	deleted   []string
}

func (a *siteServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name, one := strings.CutPrefix(r.URL.Path, "/apis/petiole.dev/v1alpha1/sites/")
	switch {
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
	if !slices.Equal(a.deleted, []string{"petiole.dev/site=plant-b"}) {
		t.Errorf("nodes deleted: %v", a.deleted)
	}
	for _, args := range []string{"site revoke nowhere", "site rejoin nowhere UA", "site jwt nowhere", "site create", "site rejoin plant-b"} {
		if code, _, errOut := run(strings.Fields(args)...); code == 0 || errOut == "" {
			t.Errorf("%s: exit code %d, printed %q", args, code, errOut)
		}
	}
}
