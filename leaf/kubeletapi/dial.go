package kubeletapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/streams/tunnel"
)

// defaultPort is upstream's.
const defaultPort = 10250

// dialTimeout bounds a connection to a kubelet on this host, the handshake included.
const dialTimeout = 5 * time.Second

// Dialer connects to the kubelet.
type Dialer struct {
	address string
	tls     *tls.Config
	node    string
}

// NewDialer returns a dialer to the kubelet of a node, at the address in its KubeletConfiguration;
// with no file, at upstream's port on loopback.
func NewDialer(c *Credentials, node, configFile string) (*Dialer, error) {
	address, err := endpoint(configFile)
	if err != nil {
		return nil, fmt.Errorf("find the kubelet's port: %w", err)
	}
	return &Dialer{address: address, tls: c.Client, node: node}, nil
}

// endpoint returns host:port of the kubelet's API.
func endpoint(configFile string) (string, error) {
	var cfg struct {
		Address string `json:"address"`
		Port    int    `json:"port"`
	}
	if configFile != "" {
		data, err := os.ReadFile(configFile)
		if err != nil {
			return "", err
		}
		if err := yaml.Unmarshal(data, &cfg); err != nil {
			return "", fmt.Errorf("%s: %w", configFile, err)
		}
	}
	if cfg.Port == 0 {
		cfg.Port = defaultPort
	}
	if ip := net.ParseIP(cfg.Address); ip == nil || ip.IsUnspecified() {
		cfg.Address = "127.0.0.1"
	}
	return net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)), nil
}

// Dial connects to the kubelet.
func (d *Dialer) Dial(ctx context.Context) (tunnel.Backend, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, fmt.Errorf("the kubelet of node %s does not answer: %w", d.node, err)
	}
	conn := tls.Client(raw, d.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("the kubelet of node %s, at %s: %w", d.node, d.address, err)
	}
	return conn, nil
}
