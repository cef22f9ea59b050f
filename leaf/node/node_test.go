package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/internal/polltest"
)

// TestMain makes this binary the kubelet that a test starts, which fails as a kubelet does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--config" {
		fmt.Fprintln(os.Stderr, `I1126 12:00:00.000001   42 server.go:1] "Starting" args=`, os.Args[1:])
		fmt.Fprintln(os.Stderr, `E1126 12:00:00.000002   42 run.go:72] "command failed" err="failed to run Kubelet: running with swap on is not supported, please disable swap"`)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestKubeletThatCannotStartIsAProblem runs a kubelet that exits at once: it is a problem after
// the second exit, with the kubelet's own reason, and counted.
func TestKubeletThatCannotStartIsAProblem(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(file, []byte("kind: KubeletConfiguration\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k := &Kubelet{Path: self, Node: "n", ConfigFile: file, Kubeconfig: "none", Log: zaptest.NewLogger(t), Renewed: func() time.Time { return time.Time{} }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	if what := k.Problem(); what != "" && k.Exits() < failuresInARow {
		t.Errorf("problem %q after %d exits", what, k.Exits())
	}
	polltest.Eventually(t, "problem", func() bool { return k.Problem() != "" })
	if got, want := k.Problem(), "the kubelet exits again and again, the last time with exit status 1: failed to run Kubelet: running with swap on is not supported, please disable swap"; got != want {
		t.Errorf("problem is %q, want %q", got, want)
	}
	if n := k.Exits(); n < failuresInARow {
		t.Errorf("%d exits are counted", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_700_000_000, 0)
	failed := fmt.Errorf("exit status 1")
	// Each step is a run of that length which ends, or, if it is negative, one that still runs
	// after that time.
	tests := []struct {
		name    string
		runs    []time.Duration
		renewed time.Duration // before the end of the last run; negative for never
		problem string
	}{
		{"starts", []time.Duration{-10 * time.Second}, -1, ""},
		{"runs", []time.Duration{-time.Hour}, 10 * time.Second, ""},
		{"killed once", []time.Duration{time.Hour, -time.Second}, -1, ""},
		{"killed from time to time", []time.Duration{time.Hour, time.Hour, time.Hour}, -1, ""},
		{"cannot start", []time.Duration{time.Second, time.Second}, -1, "again and again"},
		{"cannot start, tried again", []time.Duration{time.Second, time.Second, -5 * time.Second}, -1, "again and again"},
		{"dies every 150 s", []time.Duration{150 * time.Second, 150 * time.Second, -140 * time.Second}, time.Second, "again and again"},
		{"recovered", []time.Duration{time.Second, time.Second, -61 * time.Second}, time.Second, ""},
		{"recovered from dying every 150 s", []time.Duration{150 * time.Second, 150 * time.Second, -301 * time.Second}, time.Second, ""},
		{"never registers", []time.Duration{-2 * time.Minute}, -1, "does not renew the lease of its node: no certificate"},
		{"stands still", []time.Duration{-time.Hour}, 2 * time.Minute, "does not renew the lease"},
	}
	for _, tt := range tests {
		h, now := &health{}, start
		for _, run := range tt.runs {
			log := &reasonWriter{to: &strings.Builder{}}
			_, _ = log.Write([]byte("E1126 12:00:00.000002   42 c.go:1] \"Unhandled Error\" err=\"no certificate\"\n"))
			h.start(now, log)
			now = now.Add(max(run, -run))
			if run > 0 {
				h.exit(now, failed)
			}
		}
		renewed := time.Time{}
		if tt.renewed >= 0 {
			renewed = now.Add(-tt.renewed)
		}
		got := h.problem(now, renewed)
		if tt.problem == "" && got != "" || !strings.Contains(got, tt.problem) {
			t.Errorf("%s: problem %q, want %q", tt.name, got, tt.problem)
		}
	}
}

func TestReason(t *testing.T) {
	t.Parallel()
	const header = "1126 12:00:00.000001   42 kubelet.go:1] "
	tests := []struct{ name, log, want string }{
		{"nothing", "", ""},
		{"no error", "I" + header + "\"Started\"\n", "I" + header + "\"Started\""},
		{"line without an end", "panic: half a line", ""},
		{"last error", "E" + header + "\"one\" err=\"1\"\nE" + header + "\"two\" err=\"say \\\"2\\\"\"\nI" + header + "\"bye\"\n", `say "2"`},
		{"error without err", "E" + header + "\"Image garbage collection failed\" node=\"n\"\n", `"Image garbage collection failed" node="n"`},
		{"fatal error", "F" + header + "failed to initialize CSINode\ngoroutine 1 [running]:\nE" + header + "\"later\" err=\"x\"\n", "failed to initialize CSINode"},
		{"panic", "panic: runtime error: index\x00 out of range\n\ngoroutine 1 [running]:\n", "panic: runtime error: index  out of range"},
		{"flags", "Error: unknown flag: --nonsense\nUsage:\n", "Error: unknown flag: --nonsense"},
		{"long", "panic: " + strings.Repeat("ä", 10_000) + "\n", "panic: " + strings.Repeat("ä", 157) + "…"},
	}
	for _, tt := range tests {
		var passed strings.Builder
		w := &reasonWriter{to: &passed}
		for chunk := range slices.Chunk([]byte(tt.log), 7) {
			if n, err := w.Write(chunk); n != len(chunk) || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if got := w.last(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if passed.String() != tt.log {
			t.Errorf("%s: passed on %q", tt.name, passed.String())
		}
	}
}

// kubeadmConfig is what kubeadm writes to /var/lib/kubelet/config.yaml.
const kubeadmConfig = `
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
healthzBindAddress: 127.0.0.1
healthzPort: 10248
kind: KubeletConfiguration
memorySwap: {}
rotateCertificates: true
serverTLSBootstrap: true
staticPodPath: /etc/kubernetes/manifests
`

func TestOverrides(t *testing.T) {
	t.Parallel()
	const crio = "--container-runtime-endpoint=unix:///run/crio/crio.sock"
	none := []string{"--rotate-certificates=false", "--rotate-server-certificates=false"}
	tests := []struct {
		name, config string
		args, files  []string
		want         []string
	}{
		{"kubeadm", kubeadmConfig, nil, []string{"/run/crio/crio.sock"}, append(slices.Clone(none), crio)},
		{"kubeadm, no runtime", kubeadmConfig, nil, nil, none},
		{"kubeadm, runtime by a flag", kubeadmConfig, []string{"--container-runtime-endpoint=unix:///x"}, []string{"/run/crio/crio.sock"}, none},
		{"a gateway's", "containerRuntimeEndpoint: unix:///y\nrotateCertificates: false", nil, nil, nil},
	}
	for _, tt := range tests {
		var c kubeletconfig.KubeletConfiguration
		if err := yaml.UnmarshalStrict([]byte(tt.config), &c); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		var got []string
		for _, o := range overrides(&c, tt.args, func(f string) bool { return slices.Contains(tt.files, f) }) {
			got = append(got, o.flag)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
