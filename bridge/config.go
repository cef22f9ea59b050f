package bridge

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/configfile"
)

// Config is the bridge's configuration file, YAML.
type Config struct {
	Kubernetes KubernetesConfig `json:"kubernetes"`
	NATS       NATSConfig       `json:"nats"`
	// LeaderElection chooses which of several bridges acts.
	LeaderElection LeaderElectionConfig `json:"leaderElection"`
	Limits         LimitsConfig         `json:"limits"`
	Metrics        MetricsConfig        `json:"metrics"`
	Log            LogConfig            `json:"log"`
}

// KubernetesConfig says how to reach the API server.
type KubernetesConfig struct {
	// Kubeconfig is a file; empty: the service account of the pod the bridge runs in.
	Kubeconfig string `json:"kubeconfig"`
	// Impersonation is how the bridge acts as system:node:<node>: "constrained"
	// (KEP-5284, Kubernetes 1.36 and later; the default) or "classic".
	Impersonation string `json:"impersonation"`
	// QPS and Burst bound the requests to the API server; default 200 and 400. The renewals
	// of node leases, one for each live node every streams.PresenceInterval, have as much
	// again for themselves: QPS times PresenceInterval, 2000 by default, is how many nodes
	// can be kept alive.
	QPS   float32 `json:"qps"`
	Burst int     `json:"burst"`
}

// The values of KubernetesConfig.Impersonation.
const (
	ImpersonationConstrained = "constrained"
	ImpersonationClassic     = "classic"
)

// NATSConfig says how to reach the hub.
type NATSConfig struct {
	// URLs of the hub's servers, at least one.
	URLs []string `json:"urls"`
	// NKeySeedFile and CredentialsFile authenticate; at most one of them.
	NKeySeedFile    string `json:"nkeySeedFile"`
	CredentialsFile string `json:"credentialsFile"`
	// CAFile verifies the hub's certificate; empty: the system's authorities.
	CAFile string `json:"caFile"`
	// Replicas of the hub's streams, 1 to 5; default 1.
	Replicas int `json:"replicas"`
}

// LeaderElectionConfig names the Lease that bridges compete for.
type LeaderElectionConfig struct {
	// Namespace and Name of the Lease; default petiole-system and bridge.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Identity distinguishes this process; default the host name and process id.
	Identity string `json:"identity"`
	// LeaseDuration is how long it takes at most until another bridge leads after one
	// that died; default 15s.
	LeaseDuration metav1.Duration `json:"leaseDuration"`
}

// LimitsConfig bounds what the bridge takes on.
type LimitsConfig struct {
	// MaxSites is the number of site consumers that DESIRED may have; default 10000.
	MaxSites int `json:"maxSites"`
	// TelemetryBytes bounds TELEMETRY, oldest dropped first; default 8 GiB.
	TelemetryBytes int64 `json:"telemetryBytes"`
	// Workers publish sites and write back objects in parallel; default 8 of each.
	Workers int `json:"workers"`
}

// MetricsConfig says where the bridge speaks of itself.
type MetricsConfig struct {
	// Listen is the address of /metrics, /healthz and /readyz, over HTTP without
	// authentication; default 127.0.0.1:10442, empty: off.
	Listen string `json:"listen"`
}

// LogConfig says what is logged, as JSON lines to standard error.
type LogConfig struct {
	// Level is debug, info, warn or error; default info.
	Level string `json:"level"`
}

// DefaultConfig is what LoadConfig decodes a file over.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "bridge"
	}
	return Config{
		Kubernetes: KubernetesConfig{Impersonation: ImpersonationConstrained, QPS: 200, Burst: 400},
		NATS:       NATSConfig{Replicas: 1},
		LeaderElection: LeaderElectionConfig{
			Namespace: "petiole-system", Name: "bridge", Identity: fmt.Sprintf("%s-%d", host, os.Getpid()),
			LeaseDuration: metav1.Duration{Duration: 15 * time.Second},
		},
		Limits:  LimitsConfig{MaxSites: 10_000, TelemetryBytes: 8 << 30, Workers: 8},
		Metrics: MetricsConfig{Listen: "127.0.0.1:10442"},
		Log:     LogConfig{Level: "info"},
	}
}

// LoadConfig reads a configuration file over the defaults. An unknown key is an error.
// The result is not validated.
func LoadConfig(path string) (Config, error) {
	cfg := DefaultConfig()
	err := configfile.Load(path, &cfg)
	return cfg, err
}

// Validate reports every bad field with its value, as one joined error with a line for
// each, or nil. Files that are named must be readable.
func (c Config) Validate() error {
	var p configfile.Problems
	check := func(ok bool, field string, value any, want string) {
		if !ok {
			p.Add(field, value, want)
		}
	}
	file := func(field, path string) {
		if path != "" {
			p.File(field, path)
		}
	}
	file("kubernetes.kubeconfig", c.Kubernetes.Kubeconfig)
	p.OneOf("kubernetes.impersonation", c.Kubernetes.Impersonation, ImpersonationConstrained, ImpersonationClassic)
	check(c.Kubernetes.QPS > 0, "kubernetes.qps", c.Kubernetes.QPS, "must be more than 0")
	check(c.Kubernetes.Burst > 0, "kubernetes.burst", c.Kubernetes.Burst, "must be more than 0")

	p.Required("nats.urls", strings.Join(c.NATS.URLs, ","))
	for i, u := range c.NATS.URLs {
		check(natsURL(u), fmt.Sprintf("nats.urls[%d]", i), redacted(u), "must be nats://, tls://, ws:// or wss:// and a host")
	}
	file("nats.nkeySeedFile", c.NATS.NKeySeedFile)
	file("nats.credentialsFile", c.NATS.CredentialsFile)
	check(c.NATS.NKeySeedFile == "" || c.NATS.CredentialsFile == "",
		"nats.credentialsFile", c.NATS.CredentialsFile, "must be empty when nats.nkeySeedFile is set")
	file("nats.caFile", c.NATS.CAFile)
	check(c.NATS.Replicas >= 1 && c.NATS.Replicas <= 5, "nats.replicas", c.NATS.Replicas, "must be 1 to 5")

	le := c.LeaderElection
	p.Name("leaderElection.namespace", le.Namespace)
	p.Name("leaderElection.name", le.Name)
	p.Required("leaderElection.identity", le.Identity)
	check(le.LeaseDuration.Duration >= 3*time.Second && le.LeaseDuration.Duration <= 5*time.Minute,
		"leaderElection.leaseDuration", le.LeaseDuration.Duration.String(), "must be 3s to 5m")

	check(c.Limits.MaxSites > 0, "limits.maxSites", c.Limits.MaxSites, "must be more than 0")
	check(c.Limits.TelemetryBytes >= 1<<20, "limits.telemetryBytes", c.Limits.TelemetryBytes, "must be at least 1048576")
	check(c.Limits.Workers >= 1 && c.Limits.Workers <= 256, "limits.workers", c.Limits.Workers, "must be 1 to 256")
	check(c.Metrics.Listen == "" || listenAddress(c.Metrics.Listen), "metrics.listen", c.Metrics.Listen, "must be host:port, or empty")
	p.OneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	return p.Err()
}

// ZapLevel is Level for zap; info when Level is not valid.
func (c LogConfig) ZapLevel() zapcore.Level {
	l, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		return zapcore.InfoLevel
	}
	return l
}

func natsURL(value string) bool {
	u, err := url.Parse(value)
	return err == nil && slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) && u.Hostname() != ""
}

// listenAddress says whether value is host:port; an empty host means all addresses.
func listenAddress(value string) bool {
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// redacted is a URL without its password.
func redacted(value string) string {
	if u, err := url.Parse(value); err == nil {
		return u.Redacted()
	}
	return value
}
