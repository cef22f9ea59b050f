package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// apiServer is an API server with one site, plant-a, and a bridge that answers backlogs page
// by page. The real ones are in bridge/bridgetest.
type apiServer struct {
	t     *testing.T
	pages []v1alpha1.BacklogStatus
	// context is that of the commands, nil for that of the test.
	context context.Context

	mu        sync.Mutex
	asked     []v1alpha1.BacklogSpec
	deleted   []string
	annotated string
	site      v1alpha1.Site
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	const group = "/apis/petiole.dev/v1alpha1/"
	path := strings.TrimPrefix(r.URL.Path, group)
	switch {
	case r.URL.Path == "/apis/coordination.k8s.io/v1/namespaces/petiole-system/leases/bridge":
		a.answer(w, http.StatusOK, map[string]any{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": map[string]any{"name": "bridge"}, "spec": map[string]any{
			"holderIdentity": "b-1", "leaseDurationSeconds": 15, "renewTime": time.Now().Add(-time.Hour).Format(time.RFC3339Nano),
		}})
	case path == "sites":
		a.answer(w, http.StatusOK, v1alpha1.SiteList{TypeMeta: metav1.TypeMeta{APIVersion: "petiole.dev/v1alpha1", Kind: "SiteList"}, Items: []v1alpha1.Site{a.site}})
	case path == "sites/plant-a" && r.Method == http.MethodPatch:
		var patch v1alpha1.Site
		a.decode(r.Body, &patch)
		a.annotated = patch.Annotations[v1alpha1.ResyncAnnotation]
		now := metav1.Now()
		a.site.Status.Resync = &v1alpha1.SiteResync{Time: now, Requested: a.annotated}
		a.site.Status.LastCheck = &v1alpha1.SiteCheck{Time: now, Outcome: "equal"}
		a.answer(w, http.StatusOK, a.site)
	case path == "sites/plant-a":
		a.answer(w, http.StatusOK, a.site)
	case path == "backlogs" && r.Method == http.MethodPost:
		var b v1alpha1.Backlog
		a.decode(r.Body, &b)
		a.asked = append(a.asked, b.Spec)
		b.Name = fmt.Sprintf("%s%d", b.GenerateName, len(a.asked))
		a.answer(w, http.StatusCreated, b)
	case strings.HasPrefix(path, "backlogs/") && r.Method == http.MethodDelete:
		a.deleted = append(a.deleted, path)
		a.answer(w, http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	case strings.HasPrefix(path, "backlogs/"):
		b := v1alpha1.Backlog{TypeMeta: metav1.TypeMeta{APIVersion: "petiole.dev/v1alpha1", Kind: "Backlog"}, Spec: a.asked[len(a.asked)-1]}
		if n := len(a.asked); n <= len(a.pages) {
			b.Status = a.pages[n-1]
		}
		a.answer(w, http.StatusOK, b)
	default:
		a.answer(w, http.StatusNotFound, metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusNotFound,
			Reason: metav1.StatusReasonNotFound, Message: path + " not found",
		})
	}
}

func (a *apiServer) answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(o); err != nil {
		a.t.Error(err)
	}
}

func (a *apiServer) decode(r io.Reader, into any) {
	if err := json.NewDecoder(r).Decode(into); err != nil {
		a.t.Error(err)
	}
}

// start returns a function that runs the plugin against a.
func (a *apiServer) start() func(args ...string) (code int, out, errOut string) {
	a.t.Helper()
	a.site = v1alpha1.Site{
		TypeMeta: metav1.TypeMeta{APIVersion: "petiole.dev/v1alpha1", Kind: "Site"}, ObjectMeta: metav1.ObjectMeta{Name: "plant-a"},
		Status: v1alpha1.SiteStatus{Connected: true, Since: ago(time.Hour), Pending: 2, OldestPending: ago(3 * time.Minute), Conditions: []metav1.Condition{
			{Type: "Connected", Status: "True", Reason: "Heard"}, {Type: "Synced", Status: "False", Reason: "Pending"}, {Type: "Healthy", Status: "True", Reason: "AsExpected"},
		}},
	}
	return a.startWith(httptest.NewServer(a))
}

// startWith returns a function that runs the plugin against a server.
func (a *apiServer) startWith(server *httptest.Server) func(args ...string) (code int, out, errOut string) {
	a.t.Helper()
	a.t.Cleanup(server.Close)
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: server.URL}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c"}
	kubeconfig := filepath.Join(a.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, kubeconfig); err != nil {
		a.t.Fatal(err)
	}
	return func(args ...string) (int, string, string) {
		a.t.Helper()
		var out, errOut bytes.Buffer
		name := "kubectl-petiole"
		if args[0] == completer {
			name, args = completer, args[1:]
		}
		ctx := a.context
		if ctx == nil {
			ctx = a.t.Context()
		}
		code := Run(ctx, name, append([]string{"--kubeconfig", kubeconfig, "--context", "x"}, args...), genericiooptions.IOStreams{In: os.Stdin, Out: &out, ErrOut: &errOut})
		http.DefaultClient.CloseIdleConnections()
		return code, out.String(), errOut.String()
	}
}

func ago(d time.Duration) *metav1.Time { return &metav1.Time{Time: time.Now().Add(-d)} }

func object(group, resource, namespace, name, change string, seq int64) v1alpha1.PendingObject {
	return v1alpha1.PendingObject{Group: group, Resource: resource, Namespace: namespace, Name: name, Change: change, Published: *ago(3 * time.Minute), Bytes: 1500, Sequence: seq}
}

func TestBacklogOfSeveralPages(t *testing.T) {
	a := &apiServer{t: t, pages: []v1alpha1.BacklogStatus{
		{Time: ago(0), Pending: 4, Next: 12, Items: []v1alpha1.PendingObject{object("", "configmaps", "default", "web", "put", 11), object("", "pods", "default", "web-1", "delete", 12)}},
		{Time: ago(0), Pending: 4, Items: []v1alpha1.PendingObject{object("devices.kubeedge.io", "devices", "default", "boiler", "put", 15), object("", "configmaps", "default", "web", "put", 16)}},
	}}
	run := a.start()
	code, out, errOut := run("backlog", "plant-a", "-o", "name")
	if want := "pods/web-1\ndevices.devices.kubeedge.io/boiler\nconfigmaps/web\n"; code != 0 || out != want || errOut != "" {
		t.Errorf("code %d, printed %q %q, want %q: each object once, the oldest first", code, out, errOut, want)
	}
	if len(a.asked) != 2 || a.asked[0].After != 0 || a.asked[1].After != 12 || a.asked[0].Site != "plant-a" {
		t.Errorf("asked %+v", a.asked)
	}
	if len(a.deleted) != 2 {
		t.Errorf("questions left behind: deleted %v of 2", a.deleted)
	}
}

func TestBacklogFormats(t *testing.T) {
	page := v1alpha1.BacklogStatus{Time: ago(0), Pending: 1, Items: []v1alpha1.PendingObject{object("", "configmaps", "default", "web", "put", 11)}}
	for format, want := range map[string][]string{
		"":                                 {"NAMESPACE", "NAME", "CHANGE", "AGE", "SIZE", "configmaps/web", "put", "3m", "1.5Ki"},
		"wide":                             {"NODE", "SEQUENCE", "11"},
		"json":                             {`"kind": "Backlog"`, `"resource": "configmaps"`, `"site": "plant-a"`},
		"yaml":                             {"kind: Backlog", "resource: configmaps"},
		"jsonpath={.status.items[0].name}": {"web"},
	} {
		t.Run(format, func(t *testing.T) {
			run := (&apiServer{t: t, pages: []v1alpha1.BacklogStatus{page}}).start()
			code, out, errOut := run("backlog", "plant-a", "-o", format)
			if code != 0 || errOut != "" {
				t.Fatalf("code %d, %s", code, errOut)
			}
			for _, w := range want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in\n%s", w, out)
				}
			}
			if format == "" && strings.Contains(out, "SEQUENCE") {
				t.Errorf("not wide:\n%s", out)
			}
		})
	}
}

func TestBacklogThatCannotBeHad(t *testing.T) {
	empty := (&apiServer{t: t, pages: []v1alpha1.BacklogStatus{{Time: ago(0)}}}).start()
	if code, out, errOut := empty("backlog", "plant-a"); code != 0 || out != "" || !strings.Contains(errOut, "has stored everything") {
		t.Errorf("empty: code %d, %q, %q", code, out, errOut)
	}
	unlisted := (&apiServer{t: t, pages: []v1alpha1.BacklogStatus{{Time: ago(0), Pending: 3}}}).start()
	if code, out, errOut := unlisted("backlog", "plant-a"); code != 0 || out != "" || !strings.Contains(errOut, "3 messages to store") {
		t.Errorf("nothing listed of 3: code %d, %q, %q", code, out, errOut)
	}
	refused := (&apiServer{t: t, pages: []v1alpha1.BacklogStatus{{Time: ago(0), Error: "read consumer plant-a: timeout"}}}).start()
	if code, _, errOut := refused("backlog", "plant-a"); code != 1 || errOut != "error: the bridge cannot answer: read consumer plant-a: timeout\n" {
		t.Errorf("refused: code %d, %q", code, errOut)
	}
	a := &apiServer{t: t}
	silent := a.start()
	code, _, errOut := silent("backlog", "plant-a", "--timeout", "300ms")
	if code != 1 || !strings.Contains(errOut, "no bridge leads: the last one, b-1, renewed its lease 60m ago") {
		t.Errorf("without a bridge: code %d, %q", code, errOut)
	}
	if len(a.deleted) != 1 {
		t.Errorf("the Backlog stays: deleted %v", a.deleted)
	}
	if code, _, errOut := silent("backlog", "plant-x"); code != 1 || !strings.HasPrefix(errOut, "Error from server (NotFound): ") {
		t.Errorf("unknown site: code %d, %q", code, errOut)
	}
	if code, _, errOut := silent("backlog", "plant-a", "-o", "colour"); code != 1 || errOut == "" {
		t.Errorf("unknown format: code %d, %q", code, errOut)
	}
	if code, _, errOut := silent("backlog"); code != 1 || errOut == "" {
		t.Errorf("no site: code %d, %q", code, errOut)
	}
}

func TestStatus(t *testing.T) {
	run := (&apiServer{t: t}).start()
	code, out, errOut := run("status")
	if fields := strings.Fields(out); code != 0 || !slices.Contains(fields, "plant-a") || !slices.Contains(fields, "Pending") || !strings.Contains(errOut, "No bridge leads") {
		t.Errorf("code %d\n%s%s", code, out, errOut)
	}
	code, out, _ = run("status", "plant-a")
	for _, want := range []string{"true, for 60m", "2 objects pending, the oldest for 3m; no acknowledgement yet", "Synced", "no bridge leads"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("code %d, no %q in\n%s", code, want, out)
		}
	}
	if code, out, _ = run("status", "plant-a", "-o", "jsonpath={.status.pending}"); code != 0 || out != "2" {
		t.Errorf("code %d, %q", code, out)
	}
	if code, out, _ = run("status", "-o", "name"); code != 0 || out != "site.petiole.dev/plant-a\n" {
		t.Errorf("code %d, %q", code, out)
	}
}

func TestResync(t *testing.T) {
	a := &apiServer{t: t}
	run := a.start()
	if code, out, errOut := run("resync", "plant-a"); code != 0 || out != "site.petiole.dev/plant-a resync requested\n" || a.annotated == "" {
		t.Errorf("code %d, %q, %q; annotation %q", code, out, errOut, a.annotated)
	}
	first := a.annotated
	code, _, errOut := run("resync", "plant-a", "--wait", "--timeout", "300ms")
	if code != 1 || !strings.Contains(errOut, "2 objects are pending") || a.annotated == first {
		t.Errorf("code %d, %q; annotation %q", code, errOut, a.annotated)
	}
	a.mu.Lock()
	a.site.Status.Pending = 0
	a.mu.Unlock()
	if code, out, errOut := run("resync", "plant-a", "--wait"); code != 0 || out != "site.petiole.dev/plant-a resynced\n" {
		t.Errorf("code %d, %q, %q", code, out, errOut)
	}
}

func TestCompletesNamesOfSites(t *testing.T) {
	run := (&apiServer{t: t}).start()
	if code, out, _ := run("__complete", "backlog", ""); code != 0 || !strings.HasPrefix(out, "plant-a\n") {
		t.Errorf("code %d, %q", code, out)
	}
}

func TestMissing(t *testing.T) {
	at := metav1.Now()
	done := v1alpha1.SiteStatus{Connected: true, Resync: &v1alpha1.SiteResync{Time: at, Requested: "x"}, LastCheck: &v1alpha1.SiteCheck{Time: at, Outcome: "equal"}}
	if left := missing(&done, "x"); left != "" {
		t.Errorf("done, and yet %s", left)
	}
	for name, change := range map[string]func(*v1alpha1.SiteStatus){
		"another request": func(s *v1alpha1.SiteStatus) { s.Resync.Requested = "w" },
		"no comparison":   func(s *v1alpha1.SiteStatus) { s.LastCheck = nil },
		"an earlier one":  func(s *v1alpha1.SiteStatus) { s.LastCheck.Time = metav1.NewTime(at.Add(-time.Minute)) },
		"it differs":      func(s *v1alpha1.SiteStatus) { s.LastCheck.Outcome = "repairing" },
		"pending":         func(s *v1alpha1.SiteStatus) { s.Pending = 1 },
		"away":            func(s *v1alpha1.SiteStatus) { s.Connected = false },
	} {
		s := *done.DeepCopy()
		change(&s)
		if missing(&s, "x") == "" {
			t.Errorf("%s: taken for done", name)
		}
	}
}

// TestTextsOfASiteAreShownAsText: what a gateway has reported neither moves the cursor nor adds lines.
func TestTextsOfASiteAreShownAsText(t *testing.T) {
	a := &apiServer{t: t}
	run := a.start()
	const forged = "1.0\x1b[2J\x1b]0;owned\a\u009b1A\rConnected:\ttrue\nHealthy\u202e"
	a.mu.Lock()
	a.site.Status.Version, a.site.Status.Boot = forged, forged
	a.site.Status.Conditions[2] = metav1.Condition{Type: "Healthy", Status: "False", Reason: "DiskFull", Message: forged}
	a.mu.Unlock()
	for _, args := range []string{"status plant-a", "status", "status -o wide"} {
		code, out, errOut := run(strings.Fields(args)...)
		if code != 0 {
			t.Errorf("%s: code %d, %s", args, code, errOut)
		}
		for line := range strings.Lines(out) {
			if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%s prints %q", args, line)
			}
			if strings.HasPrefix(line, "Healthy\u202e") || strings.HasPrefix(line, "Connected:  true\n") {
				t.Errorf("%s prints the line %q, which the gateway has made up", args, line)
			}
		}
	}
}
