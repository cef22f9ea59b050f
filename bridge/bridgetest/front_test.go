package bridgetest

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// front is a reverse proxy before a real API server: it can be pointed to another one,
// made to answer what a real one cannot be made to, and remembers who wrote what.
type front struct {
	t      *testing.T
	server *httptest.Server

	mu     sync.Mutex
	target *url.URL
	via    http.RoundTripper
	// fault answers a request in place of the API server and returns true, or returns
	// false; nil: no faults.
	fault  func(http.ResponseWriter, *http.Request) bool
	writes []apiWrite
	reads  []apiRead
}

// apiWrite is a request that changes something and was let through.
type apiWrite struct {
	method, path string
	term         uint64
	begun        time.Time
	status       int
}

// apiRead is a list or a watch.
type apiRead struct {
	path  string
	watch bool
}

func newFront(t *testing.T, cfg *rest.Config) *front {
	t.Helper()
	f := &front{t: t}
	f.point(cfg)
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.server.EnableHTTP2 = true
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.server.StartTLS()
	t.Cleanup(func() {
		f.server.CloseClientConnections() // watches would be waited for
		f.server.Close()
	})
	return f
}

// point has requests go to another API server.
func (f *front) point(cfg *rest.Config) {
	f.t.Helper()
	u, err := url.Parse(cfg.Host)
	if err != nil {
		f.t.Fatal(err)
	}
	c := rest.AnonymousClientConfig(cfg)
	via, err := rest.TransportFor(c)
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target, f.via = u, via
}

// inject sets the fault, nil for none.
func (f *front) inject(fault func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	target, via, fault := f.target, f.via, f.fault
	f.mu.Unlock()
	if isList(r) {
		f.mu.Lock()
		f.reads = append(f.reads, apiRead{r.URL.Path, r.URL.Query().Get("watch") != ""})
		f.mu.Unlock()
	}
	if fault != nil && fault(w, r) {
		return
	}
	begun := time.Now()
	p := &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport:     via,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ModifyResponse: func(a *http.Response) error {
			if r.Method != http.MethodGet {
				f.mu.Lock()
				f.writes = append(f.writes, apiWrite{r.Method, r.URL.Path, termOf(r), begun, a.StatusCode})
				f.mu.Unlock()
			}
			return nil
		},
	}
	p.ServeHTTP(w, r)
}

// isList reports whether a request lists or watches a resource.
func isList(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	t := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch t[0] {
	case "api":
		t = t[min(2, len(t)):]
	case "apis":
		t = t[min(3, len(t)):]
	default:
		return false
	}
	return len(t) == 1 || len(t) == 3 && t[0] == "namespaces"
}

// termOf reads the term from the user agent of a bridge.
func termOf(r *http.Request) uint64 {
	_, term, _ := strings.Cut(r.UserAgent(), " term/")
	n, err := strconv.ParseUint(term, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// written are the writes that passed, in the order in which they were answered.
func (f *front) written() []apiWrite {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]apiWrite(nil), f.writes...)
}

// lists counts the lists, without and with a watch's initial events, since the last call.
func (f *front) lists() (lists, watches int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.reads {
		if r.watch {
			watches++
		} else {
			lists++
		}
	}
	f.reads = nil
	return lists, watches
}

// drop breaks all connections, watches included.
func (f *front) drop() { f.server.CloseClientConnections() }

// kubeconfig is the bridge's, by way of the front.
func (f *front) kubeconfig(a *api) string {
	f.t.Helper()
	cfg, err := clientcmd.LoadFromFile(a.kubeconfig)
	if err != nil {
		f.t.Fatal(err)
	}
	c := cfg.Clusters["c"]
	c.Server, c.TLSServerName, c.CertificateAuthority = f.server.URL, "", ""
	c.CertificateAuthorityData = certificate(f.server.Certificate())
	path := filepath.Join(f.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func certificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// hangUp breaks the connection of every request.
func hangUp(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// eventsFail lets everything but writes of events pass.
func eventsFail(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || !strings.Contains(r.URL.Path, "/events") {
		return false
	}
	refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError)
	return true
}

// refuse answers as an API server does that refuses.
func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	if code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{ // the client may be gone
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "injected",
	})
}
