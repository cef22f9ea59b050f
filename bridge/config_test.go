package bridge

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigDecodesOverTheDefaults(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bridge.yaml")
	write(t, path, "nats:\n  urls: [nats://hub:4222]\nleaderElection:\n  leaseDuration: 4s\nlog:\n  level: debug\n")
	cfg, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if cfg.LeaderElection.LeaseDuration.Duration != 4*time.Second || cfg.LeaderElection.Name != "bridge" || cfg.Limits.Workers != 8 || cfg.Log.Level != "debug" {
		t.Errorf("decoded %+v", cfg)
	}
}

func TestConfigRefusesAnUnknownKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bridge.yaml")
	write(t, path, "nats:\n  urls: [nats://hub:4222]\n  speed: 9\n")
	if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), "speed") {
		t.Errorf("LoadConfig = %v, want an error that names the key", err)
	}
}

func TestConfigReportsEveryBadFieldWithItsValue(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.Kubernetes.Kubeconfig = "/no/such/kubeconfig"
	cfg.Kubernetes.Impersonation = "root"
	cfg.Kubernetes.QPS = -1
	cfg.Kubernetes.Burst = 0
	cfg.NATS.URLs = []string{"http://u:hush@hub", "nats://"}
	cfg.NATS.NKeySeedFile = "/no/such/seed"
	cfg.NATS.CredentialsFile = "/no/such/creds"
	cfg.NATS.CAFile = "/no/such/ca"
	cfg.NATS.Replicas = 7
	cfg.LeaderElection.Namespace = "Not A Name"
	cfg.LeaderElection.Name = ""
	cfg.LeaderElection.Identity = ""
	cfg.LeaderElection.LeaseDuration.Duration = time.Second
	cfg.Sites.NodeDeletionDelay.Duration = -time.Minute
	cfg.Limits = LimitsConfig{MaxSites: -2, HubBytes: 5, Workers: 999}
	cfg.Metrics.Listen = "10442"
	cfg.Log.Level = "loud"
	err := cfg.Validate()
	if err == nil {
		t.Fatal("Validate accepts it")
	}
	for _, want := range []string{
		`kubernetes.kubeconfig: Invalid value: "/no/such/kubeconfig"`, `kubernetes.impersonation: Unsupported value: "root"`, `kubernetes.qps: Invalid value: -1`, `kubernetes.burst: Invalid value: 0`,
		`sites.nodeDeletionDelay: Invalid value: "-1m0s"`,
		`nats.urls[0]: Invalid value: "http://u:xxxxx@hub"`, `nats.urls[1]: Invalid value: "nats:"`, `nats.nkeySeedFile: Invalid value: "/no/such/seed"`, `nats.credentialsFile: Invalid value: "/no/such/creds"`,
		`nats.caFile: Invalid value: "/no/such/ca"`, `nats.replicas: Invalid value: 7`, `leaderElection.namespace: Invalid value: "Not A Name"`, `leaderElection.name: Invalid value: ""`,
		`leaderElection.identity: Required value`, `leaderElection.leaseDuration: Invalid value: "1s"`, `limits.maxSites: Invalid value: -2`,
		`limits.workers: Invalid value: 999`, `metrics.listen: Invalid value: "10442"`, `log.level: Unsupported value: "loud"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Validate does not report %s; it says:\n%v", want, err)
		}
	}
	cfg = DefaultConfig()
	cfg.Limits.MaxSites = 10_000
	want := `limits.hubBytes: Invalid value: 2147483648: divided by limits.maxSites (10000) it must be at least 20971520 for each site, not 214748`
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("too little room for each site: %v, want %s", err, want)
	}
	if strings.Contains(err.Error(), "hush") {
		t.Error("Validate prints a password")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A kubelet API that no API server could use is refused.
func TestConfigOfTheKubeletAPI(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  KubeletAPIConfig
		want string // empty: valid
	}{
		{KubeletAPIConfig{}, ""},
		{KubeletAPIConfig{Listen: ":10250", Service: "petiole-system/kubelets"}, ""},
		{KubeletAPIConfig{Listen: ":10250", Address: "bridge.example", AddressType: "Hostname", Port: 443}, ""},
		{KubeletAPIConfig{Address: "10.0.0.1"}, `kubeletAPI.listen: Invalid value: ""`},
		{KubeletAPIConfig{Listen: ":10250"}, "exactly one of kubeletAPI.address and kubeletAPI.service"},
		{KubeletAPIConfig{Listen: ":10250", Address: "10.0.0.1", Service: "a/b"}, "exactly one of kubeletAPI.address and kubeletAPI.service"},
		{KubeletAPIConfig{Listen: ":10250", Service: "kubelets"}, `kubeletAPI.service: Invalid value: "kubelets": must be namespace/name`},
		{KubeletAPIConfig{Listen: ":10250", Address: "127.0.0.1"}, `kubeletAPI.address: Invalid value: "127.0.0.1": must not be a loopback`},
		{KubeletAPIConfig{Listen: ":10250", Address: "bridge.example", AddressType: "InternalIP"}, `kubeletAPI.addressType: Invalid value: "InternalIP"`},
		{KubeletAPIConfig{Listen: ":10250", Address: "10.0.0.1", AddressType: "ExternalIP"}, `kubeletAPI.addressType: Invalid value: "ExternalIP"`},
		{KubeletAPIConfig{Listen: ":10250", Address: "10.0.0.1", CertFile: "/no/such/cert"}, "kubeletAPI.certFile and kubeletAPI.keyFile need each other"},
	} {
		cfg := DefaultConfig()
		cfg.NATS.URLs, cfg.KubeletAPI = []string{"nats://hub:4222"}, c.cfg
		switch err := cfg.Validate(); {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c.cfg, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: %v, want %s", c.cfg, err, c.want)
		}
	}
}

// TestChartTakesEveryKey: the schema of the chart's values has the keys of the configuration,
// apart from those that the chart itself sets.
func TestChartTakesEveryKey(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../deploy/helm/petiole/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var values schemaNode
	if err := json.Unmarshal(data, &values); err != nil {
		t.Fatal(err)
	}
	got := values.Properties["bridge"].Properties["config"].keys("")
	want := slices.DeleteFunc(keys(reflect.TypeFor[Config](), ""), func(key string) bool {
		return slices.Contains([]string{
			"kubernetes.kubeconfig", "kubeletAPI.listen", "leaderElection.namespace", "leaderElection.name", "leaderElection.identity", "metrics.listen",
		}, key)
	})
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the chart takes %v, want %v", got, want)
	}
}

type schemaNode struct {
	Properties map[string]*schemaNode `json:"properties"`
}

func (n *schemaNode) keys(prefix string) []string {
	var all []string
	for name, p := range n.Properties {
		if len(p.Properties) == 0 {
			all = append(all, prefix+name)
		}
		all = append(all, p.keys(prefix+name+".")...)
	}
	return all
}

// keys returns the paths of the settings of a configuration.
func keys(t reflect.Type, prefix string) []string {
	var all []string
	for _, field := range reflect.VisibleFields(t) {
		name := prefix + field.Tag.Get("json")
		if field.Type.Kind() == reflect.Struct && strings.HasPrefix(field.Type.PkgPath(), "github.com/petiole-io/") {
			all = append(all, keys(field.Type, name+".")...)
		} else {
			all = append(all, name)
		}
	}
	return all
}
