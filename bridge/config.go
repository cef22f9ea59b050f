package bridge

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/join"
)

// Config is the bridge's configuration file, YAML.
type Config struct {
	Kubernetes KubernetesConfig `json:"kubernetes"`
	NATS       NATSConfig       `json:"nats"`
	// Gateways says how gateways reach the hub. kubectl petiole site create prints it.
	Gateways GatewaysConfig `json:"gateways"`
	// LeaderElection selects the active one of several bridges.
	LeaderElection LeaderElectionConfig `json:"leaderElection"`
	// KubeletAPI serves kubectl logs, exec, attach, cp and port-forward, and metrics-servers.
	KubeletAPI KubeletAPIConfig `json:"kubeletAPI"`
	Sites      SitesConfig      `json:"sites"`
	Limits     LimitsConfig     `json:"limits"`
	Metrics    MetricsConfig    `json:"metrics"`
	Log        LogConfig        `json:"log"`
}

// KubernetesConfig configures the connection to the API server.
type KubernetesConfig struct {
	// Kubeconfig is a file; empty for the service account of the bridge's pod.
	Kubeconfig string `json:"kubeconfig"`
	// Impersonation is the way in which the bridge impersonates system:node:<node>:
	// "constrained" (KEP-5284, Kubernetes 1.36 and later; the default) or "classic".
	Impersonation string `json:"impersonation"`
	// QPS and Burst limit the requests to the API server; default 200 and 400. The renewals of
	// node leases, one per live node every streams.PresenceInterval, have a separate limit of
	// the same size: QPS times PresenceInterval, 2000 by default, is the number of nodes that
	// can be kept alive.
	QPS   float32 `json:"qps"`
	Burst int     `json:"burst"`
}

// The values of KubernetesConfig.Impersonation.
const (
	ImpersonationConstrained = kube.ImpersonationConstrained
	ImpersonationClassic     = kube.ImpersonationClassic
)

// NATSConfig configures the connection to the hub.
type NATSConfig struct {
	// URLs of the hub's servers, at least one.
	URLs []string `json:"urls"`
	// NKeySeedFile and CredentialsFile authenticate the bridge; at most one of them. The first is
	// for a hub that is not in operator mode, and ends with that (decision 21).
	NKeySeedFile    string `json:"nkeySeedFile"`
	CredentialsFile string `json:"credentialsFile"`
	// CAFile verifies the hub's certificate; empty for the system's authorities.
	CAFile string `json:"caFile"`
	// Replicas of the hub's streams, 1 to 5; default 1.
	Replicas int `json:"replicas"`
	// Accounts lets the bridge make the accounts of Sites at a hub in operator mode. Without it
	// they are in the hub's configuration.
	Accounts AccountsConfig `json:"accounts"`
}

// AccountsConfig configures who makes accounts at the hub: all of its files, as `bridge hub
// init` creates them, or none.
type AccountsConfig struct {
	// CredentialsFile is the bridge's user in the hub's system account.
	CredentialsFile string `json:"credentialsFile"`
	// OperatorKeyFile is the seed of a signing key of the operator.
	OperatorKeyFile string `json:"operatorKeyFile"`
	// SiteKeyFile has the seeds that the keys of all sites are derived from. `bridge hub rotate` replaces
	// the one that signs; all gateways need new credentials then.
	SiteKeyFile string `json:"siteKeyFile"`
}

// GatewaysConfig is what a gateway that joins has to know about the hub.
type GatewaysConfig struct {
	// URL is that of the hub's leaf listener, for example tls://hub.example.com:7422. Empty: the
	// user of a join token has to know it.
	URL string `json:"url"`
	// CAFile verifies the certificate that gateways see, and is part of each join token; default:
	// NATS.CAFile. "system" leaves it to the authorities that the gateways know.
	CAFile string `json:"caFile"`
}

// systemCA is the value of GatewaysConfig.CAFile for the authorities of the gateways' systems.
const systemCA = "system"

// maxAuthorities bounds the certificates in a join token, in bytes.
const maxAuthorities = 16 << 10

// entry returns where gateways find the hub.
func (c Config) entry() (accounts.Entry, error) {
	path := cmp.Or(c.Gateways.CAFile, c.NATS.CAFile)
	if path == "" || path == systemCA {
		return accounts.Entry{URL: c.Gateways.URL}, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return accounts.Entry{}, fmt.Errorf("gateways.caFile: %w", err)
	}
	if len(data) > maxAuthorities {
		return accounts.Entry{}, fmt.Errorf("gateways.caFile: %s has %d bytes, at most %d fit in a join token: name a file with the authority of the hub alone", path, len(data), maxAuthorities)
	}
	if _, err := join.ParseAuthorities(data); err != nil {
		return accounts.Entry{}, fmt.Errorf("gateways.caFile: %s: %w", path, err)
	}
	return accounts.Entry{URL: c.Gateways.URL, Authorities: string(data)}, nil
}

func (c NATSConfig) accountFiles() accounts.Files {
	return accounts.Files{OperatorKey: c.Accounts.OperatorKeyFile, SiteKey: c.Accounts.SiteKeyFile, Bridge: c.CredentialsFile}
}

// accounts returns the configuration of the connection to the system account.
func (c NATSConfig) accounts(identity string) hub.Config {
	return hub.Config{Name: "petiole bridge " + identity + " accounts", URLs: c.URLs, CAFile: c.CAFile, CredentialsFile: c.Accounts.CredentialsFile}
}

func (c NATSConfig) hub(identity string) hub.Config {
	return hub.Config{Name: "petiole bridge " + identity, URLs: c.URLs, CAFile: c.CAFile, CredentialsFile: c.CredentialsFile, NKeySeedFile: c.NKeySeedFile}
}

// LeaderElectionConfig configures the Lease that bridges compete for.
type LeaderElectionConfig struct {
	// Namespace and Name of the Lease; default petiole-system and bridge.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Identity identifies this process; default the host name and process ID.
	Identity string `json:"identity"`
	// LeaseDuration is the maximum time until another bridge takes over from one that died;
	// default 15s.
	LeaseDuration metav1.Duration `json:"leaseDuration"`
}

func (c LeaderElectionConfig) lease() lease.Config {
	return lease.Config{Namespace: c.Namespace, Name: c.Name, Identity: c.Identity, Takeover: c.LeaseDuration.Duration}
}

// KubeletAPIConfig configures where the API server reaches the kubelets of the sites: at the
// bridge.
type KubeletAPIConfig struct {
	// Listen is host:port of the listener; empty, the default: no kubelet API.
	Listen string `json:"listen"`
	// CertFile and KeyFile are the serving certificate. It is for the address below, and signed by
	// the API server's --kubelet-certificate-authority, if it has one. Without them the bridge
	// creates one that nobody has signed, as a kubelet does.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// ClientCAFile verifies the client certificate of the API server; default what it publishes in
	// kube-system/extension-apiserver-authentication.
	ClientCAFile string `json:"clientCAFile"`
	// Address is the address that the nodes of the sites have in the API: an IP address, or a
	// host name that the API server resolves. Service, "namespace/name", is a Service whose cluster
	// IP is the address. Exactly one of them must be set.
	Address string `json:"address"`
	Service string `json:"service"`
	// AddressType is the type of the address: InternalIP, or Hostname, which the API server prefers
	// if its --kubelet-preferred-address-types begins with it (the default; that of kubeadm begins
	// with InternalIP). With Hostname the nodes keep their own InternalIP. Default InternalIP, for a
	// host name Hostname.
	AddressType string `json:"addressType"`
	// Port is the port of the address; default that of Listen.
	Port int32 `json:"port"`
}

// SitesConfig configures what happens to Sites.
type SitesConfig struct {
	// NodeDeletionDelay is the time after which the Nodes of a deleted Site are deleted, unless a
	// Site of that name exists by then; default 1m. 0: they are marked, and stay.
	NodeDeletionDelay metav1.Duration `json:"nodeDeletionDelay"`
}

// LimitsConfig limits what the bridge accepts.
type LimitsConfig struct {
	// MaxSites is the number of Sites that the room at the hub is divided among; default 100. A
	// Site beyond that gets no streams, and a condition.
	MaxSites int `json:"maxSites"`
	// HubBytes is the room for the streams of all sites at each server of the hub, less than its
	// max_file_store by the room for DESIRED; default 2 GiB. A site gets HubBytes / MaxSites,
	// reserved, or less if its spec.limits.hubStorage says so.
	HubBytes int64 `json:"hubBytes"`
	// Workers is the number of sites published, and of objects written back, in parallel;
	// default 8. Of those that write back, the objects of one site have at most half.
	Workers int `json:"workers"`
}

// MetricsConfig configures the HTTP endpoints of the bridge.
type MetricsConfig struct {
	// Listen is the address of /metrics, /healthz and /readyz, over HTTP without
	// authentication; default 127.0.0.1:10442, empty to disable.
	Listen string `json:"listen"`
}

// LogConfig configures the log, JSON lines on standard error.
type LogConfig struct {
	// Level is debug, info, warn or error; default info.
	Level string `json:"level"`
}

// DefaultConfig returns the defaults that LoadConfig starts from.
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
		Sites:   SitesConfig{NodeDeletionDelay: metav1.Duration{Duration: time.Minute}},
		Limits:  LimitsConfig{MaxSites: 100, HubBytes: 2 << 30, Workers: 8},
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

// Validate returns one error with a line for each invalid field and its value, or nil. Files
// must be readable.
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
		check(natsURL(u), fmt.Sprintf("nats.urls[%d]", i), hub.Redacted(u), "must be nats://, tls://, ws:// or wss:// and a host")
	}
	file("nats.nkeySeedFile", c.NATS.NKeySeedFile)
	file("nats.credentialsFile", c.NATS.CredentialsFile)
	check(c.NATS.NKeySeedFile == "" || c.NATS.CredentialsFile == "",
		"nats.credentialsFile", c.NATS.CredentialsFile, "must be empty when nats.nkeySeedFile is set")
	file("nats.caFile", c.NATS.CAFile)
	check(c.Gateways.URL == "" || natsURL(c.Gateways.URL), "gateways.url", hub.Redacted(c.Gateways.URL), "must be tls:// or wss:// and the host and port of the hub's leaf listener")
	if c.Gateways.CAFile != systemCA {
		file("gateways.caFile", c.Gateways.CAFile)
	}
	if a := c.NATS.Accounts; a != (AccountsConfig{}) {
		p.Required("nats.credentialsFile", c.NATS.CredentialsFile)
		for field, path := range map[string]string{
			"nats.accounts.credentialsFile": a.CredentialsFile, "nats.accounts.operatorKeyFile": a.OperatorKeyFile, "nats.accounts.siteKeyFile": a.SiteKeyFile,
		} {
			p.Required(field, path)
			file(field, path)
		}
	}
	check(c.NATS.Replicas >= 1 && c.NATS.Replicas <= 5, "nats.replicas", c.NATS.Replicas, "must be 1 to 5")

	le := c.LeaderElection
	p.Name("leaderElection.namespace", le.Namespace)
	p.Name("leaderElection.name", le.Name)
	p.Required("leaderElection.identity", le.Identity)
	check(le.LeaseDuration.Duration >= 3*time.Second && le.LeaseDuration.Duration <= 5*time.Minute,
		"leaderElection.leaseDuration", le.LeaseDuration.Duration.String(), "must be 3s to 5m")

	if k := c.KubeletAPI; k != (KubeletAPIConfig{}) {
		check(listenAddress(k.Listen), "kubeletAPI.listen", k.Listen, "must be host:port")
		file("kubeletAPI.certFile", k.CertFile)
		file("kubeletAPI.keyFile", k.KeyFile)
		check((k.CertFile == "") == (k.KeyFile == ""), "kubeletAPI.keyFile", k.KeyFile, "kubeletAPI.certFile and kubeletAPI.keyFile need each other")
		file("kubeletAPI.clientCAFile", k.ClientCAFile)
		check((k.Address == "") != (k.Service == ""), "kubeletAPI.address", k.Address, "exactly one of kubeletAPI.address and kubeletAPI.service must be set")
		check(k.Service == "" || strings.Count(k.Service, "/") == 1, "kubeletAPI.service", k.Service, "must be namespace/name")
		if ip := net.ParseIP(k.Address); k.Address != "" {
			check(k.Address != "localhost" && (ip == nil || ip.IsGlobalUnicast()), "kubeletAPI.address", k.Address, "must not be a loopback or link-local address: the API server refuses to proxy to it")
			check(ip != nil || k.AddressType != string(corev1.NodeInternalIP), "kubeletAPI.addressType", k.AddressType, "must be Hostname, or empty, for a host name")
		}
		check(slices.Contains([]string{"", string(corev1.NodeInternalIP), string(corev1.NodeHostName)}, k.AddressType), "kubeletAPI.addressType", k.AddressType, "must be InternalIP, Hostname, or empty")
		check(k.Port >= 0 && k.Port <= 65535, "kubeletAPI.port", k.Port, "must be a port, or 0 for that of kubeletAPI.listen")
	}
	check(c.Sites.NodeDeletionDelay.Duration >= 0, "sites.nodeDeletionDelay", c.Sites.NodeDeletionDelay.Duration.String(), "must not be negative")
	check(c.Limits.MaxSites > 0, "limits.maxSites", c.Limits.MaxSites, "must be more than 0")
	if share := c.Limits.HubBytes / int64(max(c.Limits.MaxSites, 1)); c.Limits.MaxSites > 0 {
		check(share >= streams.MinSiteBytes, "limits.hubBytes", c.Limits.HubBytes,
			fmt.Sprintf("divided by limits.maxSites (%d) it must be at least %d for each site, not %d", c.Limits.MaxSites, streams.MinSiteBytes, share))
	}
	check(c.Limits.Workers >= 1 && c.Limits.Workers <= 256, "limits.workers", c.Limits.Workers, "must be 1 to 256")
	check(c.Metrics.Listen == "" || listenAddress(c.Metrics.Listen), "metrics.listen", c.Metrics.Listen, "must be host:port, or empty")
	p.OneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	return p.Err()
}

// ZapLevel returns Level as a zap level, info if it is invalid.
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

// listenAddress reports whether value is host:port; an empty host means all addresses.
func listenAddress(value string) bool {
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}
