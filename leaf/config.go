package leaf

import (
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices/push"
	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/metrics"
	"github.com/petiole-io/petiole/streams"
)

// Config is the leaf's configuration file.
type Config struct {
	// Site is the site's name: a DNS label, unique among all sites. It is also the
	// site's account, consumer and JetStream domain.
	Site string `json:"site"`
	// Node is the name of the Kubernetes node on this host, see streams.CheckNodeName.
	Node string `json:"node"`
	// DataDir holds the leaf's own files: keys, kubeconfig, stored tokens. Default
	// /var/lib/petiole.
	DataDir string `json:"dataDir"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `json:"logLevel"`

	NATS    NATSConfig    `json:"nats"`
	NodeAPI NodeAPIConfig `json:"nodeAPI"`
	Kubelet KubeletConfig `json:"kubelet"`
	Devices DevicesConfig `json:"devices"`
	Storage StorageConfig `json:"storage"`
	Metrics MetricsConfig `json:"metrics"`
	Link    LinkConfig    `json:"link"`
}

// LinkConfig is about the connection to the hub. The connection itself is in the configuration of
// the nats-server.
type LinkConfig struct {
	// Profile is default, or metered for a line that is paid by the byte: fewer heartbeats and
	// pings, and records that wait up to a minute for others. Default default.
	Profile string `json:"profile"`
}

// NATSConfig says which NATS server is the site's leaf node: the embedded one, by a
// stock nats-server configuration file, or one that runs already, by its URL.
type NATSConfig struct {
	// ConfigFile is a nats-server configuration file. Exactly one of ConfigFile and
	// URL must be set.
	ConfigFile string `json:"configFile"`
	// URL is the nats-server on the gateway, for example nats://127.0.0.1:4222.
	URL string `json:"url"`
	// User and PasswordFile authenticate at URL; the embedded server needs neither. The
	// file has one line, the password, alone or as leaf.conf includes it (password: "…").
	// Empty: no authentication, which makes the site Healthy=False.
	User         string `json:"user"`
	PasswordFile string `json:"passwordFile"`
}

// NodeAPIConfig is about the Kubernetes API that the leaf serves to its node.
type NodeAPIConfig struct {
	// Listen is a loopback host:port. Default 127.0.0.1:10441.
	Listen string `json:"listen"`
	// Pods is an IP address and port at which pods reach the API with the tokens of their service
	// accounts, for what their roles allow. A link-local address such as 169.254.104.41:10444 is
	// added to the loopback interface. Empty, the default: pods are not served.
	Pods string `json:"pods"`
}

// pods returns the address of Pods, the zero value if there is none.
func (c NodeAPIConfig) pods() netip.AddrPort {
	address, _ := netip.ParseAddrPort(c.Pods) // Validate has checked it
	return address
}

// KubeletConfig is about the kubelet that the leaf runs as a child process.
type KubeletConfig struct {
	// ConfigFile is a KubeletConfiguration file. Empty: the leaf runs no kubelet; a
	// stock one may use the kubeconfig in DataDir.
	ConfigFile string `json:"configFile"`
	// Args are further kubelet flags.
	Args []string `json:"args"`
}

// DevicesConfig is about the device worker.
type DevicesConfig struct {
	// Disabled leaves the devices of this node to another worker. Default false.
	Disabled bool `json:"disabled"`
	// MQTT serves KubeEdge's device topics on the site's nats-server, whose own
	// configuration reports whether it listens for MQTT. Default true.
	MQTT bool `json:"mqtt"`
	// DMISocket is the Unix socket at which KubeEdge's mappers register, for them
	// /etc/kubeedge/dmi.sock. Empty, the default: no mappers.
	DMISocket string `json:"dmiSocket"`
	// MapperProtocols are protocols that mappers serve although the leaf has a driver for them,
	// such as modbus. Default none.
	MapperProtocols []string `json:"mapperProtocols"`
	// PushFormat is the form in which samples are pushed to web servers and brokers: json, the
	// default, or kubeedge, as mappers of KubeEdge's framework push them.
	PushFormat push.Format `json:"pushFormat"`
	// Gather is the interval in which the samples of a device become one record, and the least time
	// between two DeviceStatuses: one commit stores what all devices gathered, so that flash memory
	// and the line last. What is gathered when the power fails is lost, and local readers of
	// samples get them as late. Results of commands and Events never wait. At most 10 minutes;
	// default 0, each sample is stored at once.
	Gather metav1.Duration `json:"gather"`
}

// maxGather is the most of DevicesConfig.Gather.
const maxGather = 10 * time.Minute

// StorageConfig bounds what the leaf's streams may hold.
type StorageConfig struct {
	// TelemetryBytes bounds SITE_TELEMETRY; beyond it the oldest records are dropped
	// and counted. Default 268435456 (256 MiB).
	TelemetryBytes int64 `json:"telemetryBytes"`
	// ReserveBytes is what telemetry leaves free on the disk of the embedded server's
	// store, for desired state, commands and status: below it the oldest telemetry goes.
	// On a small disk it is a quarter of it at most. 0 reserves nothing. Default 67108864
	// (64 MiB).
	ReserveBytes int64 `json:"reserveBytes"`
	// Encryption encrypts what is stored.
	Encryption EncryptionConfig `json:"encryption"`
}

// EncryptionConfig encrypts the store of the embedded server and the stored tokens.
type EncryptionConfig struct {
	// KeyFile is the file of a key of at least 32 random characters, outside of DataDir and
	// with mode 0600 or 0400: an absolute path, or the name of a credential of systemd. An
	// existing store is encrypted at the next start. Empty, the default: not encrypted.
	KeyFile string `json:"keyFile"`
	// PreviousKeyFile is the key that KeyFile replaces; it is not needed after the next start.
	PreviousKeyFile string `json:"previousKeyFile"`
}

// MetricsConfig is about what the leaf says about itself.
type MetricsConfig struct {
	// Listen serves /metrics, /healthz and /readyz on host:port. Empty: off. Default
	// 127.0.0.1:10443.
	Listen string `json:"listen"`
	// WebConfigFile has TLS and authentication for it, in the form of Prometheus' own exporters. It
	// is read again at each connection. Empty, the default: neither.
	WebConfigFile string `json:"webConfigFile"`
}

func (c MetricsConfig) endpoint(log *zap.Logger) metrics.Endpoint {
	return metrics.Endpoint{Listen: c.Listen, WebConfigFile: c.WebConfigFile, Log: log.Named("metrics")}
}

// DefaultConfig is what a configuration file is decoded over.
func DefaultConfig() Config {
	return Config{
		DataDir: "/var/lib/petiole", LogLevel: "info",
		NodeAPI: NodeAPIConfig{Listen: "127.0.0.1:10441"},
		Storage: StorageConfig{TelemetryBytes: 256 << 20, ReserveBytes: 64 << 20},
		Metrics: MetricsConfig{Listen: "127.0.0.1:10443"}, Devices: DevicesConfig{MQTT: true},
		Link: LinkConfig{Profile: profileDefault},
	}
}

// Validate reports every bad field with its value.
func (c Config) Validate() error {
	var p configfile.Problems
	p.Name("site", c.Site)
	for _, problem := range streams.CheckNodeName(c.Node) {
		p.Add("node", c.Node, problem)
	}
	p.Required("dataDir", c.DataDir)
	p.OneOf("logLevel", c.LogLevel, "debug", "info", "warn", "error")
	switch {
	case (c.NATS.ConfigFile == "") == (c.NATS.URL == ""):
		p.Add("nats.configFile", c.NATS.ConfigFile, "exactly one of nats.configFile and nats.url must be set")
	case c.NATS.ConfigFile != "":
		p.File("nats.configFile", c.NATS.ConfigFile)
	case !protected(c.NATS.URL):
		p.Add("nats.url", c.NATS.URL, "must begin with tls:// unless the host is a loopback address: Secrets cross this connection")
	}
	switch user := c.NATS.User; {
	case c.NATS.ConfigFile != "" && (user != "" || c.NATS.PasswordFile != ""):
		p.Add("nats.user", user, "nats.user and nats.passwordFile are for nats.url; the embedded server needs neither")
	case (user == "") != (c.NATS.PasswordFile == ""):
		p.Add("nats.user", user, "nats.user and nats.passwordFile need each other")
	case user != "":
		p.File("nats.passwordFile", c.NATS.PasswordFile)
	}
	if !loopback(c.NodeAPI.Listen) {
		p.Add("nodeAPI.listen", c.NodeAPI.Listen, "must be a loopback address and a port")
	}
	if a, err := netip.ParseAddrPort(c.NodeAPI.Pods); c.NodeAPI.Pods != "" && (err != nil || a.Addr().IsUnspecified() || a.Addr().IsLoopback() || a.Port() == 0) {
		p.Add("nodeAPI.pods", c.NodeAPI.Pods, "must be an IP address that pods reach and a port, such as 169.254.104.41:10444, or empty")
	}
	if c.Kubelet.ConfigFile != "" {
		p.File("kubelet.configFile", c.Kubelet.ConfigFile)
	}
	if c.Storage.TelemetryBytes < 1<<20 {
		p.Add("storage.telemetryBytes", c.Storage.TelemetryBytes, "must be at least 1048576")
	}
	if e := c.Storage.Encryption; e.KeyFile == "" && e.PreviousKeyFile != "" {
		p.Add("storage.encryption.previousKeyFile", e.PreviousKeyFile, "needs storage.encryption.keyFile, the key that replaces it")
	}
	if s := c.Devices.DMISocket; s != "" && !filepath.IsAbs(s) {
		p.Add("devices.dmiSocket", s, "must be an absolute path, or empty")
	}
	if s := c.Devices.MapperProtocols; len(s) > 0 && c.Devices.DMISocket == "" {
		p.Add("devices.mapperProtocols", s, "needs devices.dmiSocket, where mappers register")
	}
	if f := c.Devices.PushFormat; f != "" && f != push.FormatJSON && f != push.FormatKubeEdge {
		p.Add("devices.pushFormat", f, `must be "json" or "kubeedge"`)
	}
	if d := c.Devices.Gather.Duration; d < 0 || d > maxGather {
		p.Add("devices.gather", d.String(), "must be between 0s and "+maxGather.String())
	}
	if c.Storage.ReserveBytes < 0 {
		p.Add("storage.reserveBytes", c.Storage.ReserveBytes, "must not be negative")
	}
	p.OneOf("link.profile", c.Link.Profile, slices.Sorted(maps.Keys(profiles))...)
	if c.Link.Profile == profileMetered && c.NATS.ConfigFile == "" {
		p.Add("link.profile", c.Link.Profile, "needs nats.configFile: the pings of a nats-server outside of this process are set in its own configuration")
	}
	if c.Metrics.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Metrics.Listen); err != nil {
			p.Add("metrics.listen", c.Metrics.Listen, "must be host:port, or empty")
		}
	}
	if file := c.Metrics.WebConfigFile; file != "" {
		if err := metrics.CheckWebConfig(file); err != nil {
			p.Add("metrics.webConfigFile", file, "must be a web configuration file of Prometheus: "+err.Error())
		}
	}
	return p.Err()
}

// protected reports whether every server of a NATS URL, or of several with commas, is reached with
// TLS or on this host.
func protected(urls string) bool {
	for one := range strings.SplitSeq(urls, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil {
			return false
		}
		if u.Scheme != "tls" && u.Scheme != "wss" && !loopback(net.JoinHostPort(u.Hostname(), "0")) {
			return false
		}
	}
	return true
}

func loopback(listen string) bool {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
