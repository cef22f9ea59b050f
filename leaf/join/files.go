package join

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/petiole-io/petiole/deploy"
	"github.com/petiole-io/petiole/internal/durable"
)

// The files in ConfigDir. The leaf's own are those of docs/install.md.
const (
	stateFile   = "join.json"
	reserveFile = "join.reserve"
	// newKeyFile is the key of a gateway that has not joined yet; then it is link.nk.
	newKeyFile = "join.nk"
	keyFile    = "link.nk"
	credsFile  = "link.creds"
	caFile     = "ca.crt"
	leafConf   = "leaf.conf"
	// proxyConf is what leafConf includes as the HTTP proxy, with its password.
	proxyConf   = "proxy.conf"
	leafYAML    = "leaf.yaml"
	kubeletYAML = "kubelet.yaml"
	// beforeSuffix ends the name of a copy of what a person may have changed.
	beforeSuffix = ".before"
	// usersDir has the credentials of the users of leafConf.
	usersDir = "users"
)

// reserveBytes is kept free on the disk while the bridge is asked, so that its answer can be
// stored.
const reserveBytes = 1 << 20

// state is what is known about the join, in stateFile.
type state struct {
	Site string `json:"site"`
	// URL is that of the hub in leafConf.
	URL string `json:"url,omitempty"`
	// Proxy reports whether leafConf includes proxyConf.
	Proxy bool `json:"proxy,omitempty"`
	// Asked is the public key of the token that the bridge was asked with, Joined that of the one
	// that it has accepted.
	Asked  string `json:"asked,omitempty"`
	Joined string `json:"joined,omitempty"`
	Node   string `json:"node,omitempty"`
	// Unit is the path of the systemd unit, if join has installed it.
	Unit string `json:"unit,omitempty"`
}

func (m Machine) config(name string) string { return filepath.Join(m.ConfigDir, name) }

// readState returns the zero value if nothing has joined.
func (m Machine) readState() (s state, err error) {
	data, err := os.ReadFile(m.config(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the state of the join: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read the state of the join in %s: %w: run 'leaf reset' and join again with a new token", m.config(stateFile), err)
	}
	return s, nil
}

func (s state) encode() []byte {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // strings can be encoded
	}
	return append(data, '\n')
}

// changes writes files and can undo that.
type changes struct{ undo []func() error }

// write replaces a file, readable by its owner alone.
func (c *changes) write(path string, data []byte, perm fs.FileMode) error {
	before, err := os.ReadFile(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if missing {
		c.undo = append(c.undo, func() error { return remove(path) })
	} else if !bytes.Equal(before, data) {
		c.undo = append(c.undo, func() error { return durable.WriteFile(path, before, perm) })
	}
	if err := durable.WriteFile(path, data, perm); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// forget keeps what was written so far.
func (c *changes) forget() { c.undo = nil }

// revert undoes what was written since forget, last first.
func (c *changes) revert() error {
	var errs []error
	for i := len(c.undo) - 1; i >= 0; i-- {
		errs = append(errs, c.undo[i]())
	}
	c.undo = nil
	return errors.Join(errs...)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// The address of a gateway's own API for pods, and of its DNS: those of deploy/kubernetes/sites.
const (
	servicesAddress = "169.254.104.41"
	podsPort        = "10444"
)

// kubeletValues and leafValues are the values of the templates.
type kubeletValues struct {
	RuntimeEndpoint, CgroupDriver, ResolvConf string
	CgroupV1                                  bool
	// ClusterDNS is the address of the site's DNS, empty if it has none.
	ClusterDNS string
}

type leafValues struct {
	Site, Store, Listen, MQTT, URL, Credentials, SeedFile, CAFile, ProxyFile string
	LeafUser                                                                 bool
}

func render(name, text string, values any) ([]byte, error) {
	t, err := template.New(name).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, values); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// renderKubelet returns the KubeletConfiguration.
func (m Machine) renderKubelet(info runtimeInfo, services bool) ([]byte, error) {
	resolv := "/etc/resolv.conf"
	// systemd-resolved: the file that it keeps for others has the real servers.
	if m.exists("/run/systemd/resolve/resolv.conf") {
		resolv = "/run/systemd/resolve/resolv.conf"
	}
	dns := ""
	if services {
		dns = servicesAddress
	}
	return render(kubeletYAML, deploy.KubeletYAML, kubeletValues{info.Endpoint, info.CgroupDriver, resolv, m.cgroupV1(), dns})
}

// renderLeafConf returns the configuration of the leaf's nats-server.
func (m Machine) renderLeafConf(site, url string, authorities, localClients, proxy bool) ([]byte, error) {
	v := leafValues{Site: site, Store: filepath.Join(m.DataDir, "nats"), URL: url, Credentials: m.config(credsFile)}
	if localClients {
		v.Listen, v.MQTT = "127.0.0.1:4222", "127.0.0.1:1883"
	}
	if proxy {
		v.ProxyFile = proxyConf
	}
	if authorities {
		v.CAFile = m.config(caFile)
	}
	return render(leafConf, deploy.LeafConf, v)
}

// renderProxy returns the settings of an HTTP proxy.
func renderProxy(proxy *url.URL) []byte {
	text := fmt.Sprintf("url: %q\ntimeout: \"20s\"\n", (&url.URL{Scheme: proxy.Scheme, Host: proxy.Host}).String())
	if password, ok := proxy.User.Password(); ok {
		text += fmt.Sprintf("username: %q\npassword: %q\n", proxy.User.Username(), password)
	}
	return []byte(text)
}

// renderLeafYAML returns leaf.yaml: the one in deploy, with its explanations, for this gateway.
func (m Machine) renderLeafYAML(site, node string, services bool) ([]byte, error) {
	text, pods := deploy.LeafYAML, `""                   `
	if services {
		pods = servicesAddress + ":" + podsPort + " "
	}
	for _, r := range []struct{ from, to string }{
		{"\n  pods: \"\"                   ", "\n  pods: " + pods},
		{"\nsite: plant-a ", "\nsite: " + site + " "},
		{"\nnode: plant-a-1 ", "\nnode: " + node + " "},
		{"\ndataDir: /var/lib/petiole ", "\ndataDir: " + m.DataDir + " "},
		{" /etc/petiole/leaf.conf ", " " + m.config(leafConf) + " "},
		{" /etc/petiole/kubelet.yaml ", " " + m.config(kubeletYAML) + " "},
		{"\n  listen: " + metricsAddress + " ", "\n  listen: " + m.Metrics + " "},
	} {
		if strings.Count(text, r.from) != 1 {
			return nil, fmt.Errorf("render %s: deploy/leaf/leaf.yaml does not have %q once", leafYAML, r.from)
		}
		text = strings.Replace(text, r.from, r.to, 1)
	}
	return []byte(text), nil
}

// renderUnit returns the systemd unit.
func (m Machine) renderUnit() ([]byte, error) {
	const before = "ExecStart=/usr/bin/leaf --config /etc/petiole/leaf.yaml\n"
	if strings.Count(deploy.LeafService, before) != 1 {
		return nil, fmt.Errorf("render %s: deploy/leaf/%s does not have %q once", unitName, unitName, before)
	}
	start := fmt.Sprintf("ExecStart=%s --config %s\n", m.Executable, m.config(leafYAML))
	return []byte(strings.Replace(deploy.LeafService, before, start, 1)), nil
}
