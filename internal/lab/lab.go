package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/crio"
	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/network"
)

// Where the parts listen. The bridge device's address is 10.98.0.1, the only one that
// a site can reach.
const (
	hubClients  = "127.0.0.1:4222"
	hubMonitor  = "127.0.0.1:8222"
	hubLeaves   = "10.98.0.1:7422"
	leafClients = "127.0.0.1:4222"
	// bridgeKubelets is where the bridge serves the kubelet API, at cluster.KubeletsAddress.
	bridgeKubelets = cluster.KubeletsAddress + ":10250"
	leafMQTT       = "127.0.0.1:1883"
	modbusPort     = "502"

	// ImagesAddress is where `lab registry` serves the images.
	ImagesAddress = "10.98.0.1:5000"
	// AdvertiseAddress is the API server's address in the endpoints of default/kubernetes.
	// The API server does not listen there: no site can reach it.
	AdvertiseAddress = "10.98.0.1"
	// APIPort and the etcd ports are on the host's loopback.
	APIPort      = 6443
	EtcdPort     = 2379
	EtcdPeerPort = 2380
)

// SiteNames are the lab's sites.
var SiteNames = []string{"plant-a", "plant-b"}

// Lab is one lab, in the folder .lab of a clone of the repository.
type Lab struct {
	root    string // of the repository
	dir     string // .lab
	out     progress
	net     network.Network
	daemons daemon.Set
	// wrapRunc reports that containers need ociwrap here.
	wrapRunc bool
	// lock is the file that commands of labs on this machine hold.
	lock string
}

// Open returns the lab of the repository that holds folder from, or one of its parents.
// It changes nothing.
func Open(from string, p Printer) (*Lab, error) {
	root, err := repository(from)
	if err != nil {
		return nil, err
	}
	wrap, err := host.NeedsWrapper()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, ".lab")
	return &Lab{
		root: root, dir: dir, out: newProgress(p.Out), wrapRunc: wrap, lock: lockFile,
		net:     network.Network{Device: "petiole0", Prefix: netip.MustParsePrefix("10.98.0.0/24"), Cloud: netip.MustParseAddr(cluster.KubeletsAddress)},
		daemons: daemon.Set{RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log")},
	}, nil
}

// Dir returns the folder of everything that the lab writes, except below /run/petiole-lab.
func (l *Lab) Dir() string { return l.dir }

// Kubeconfig returns the administrator's kubeconfig.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.dir, "kubeconfig") }

// SiteDir returns the folder of a site's files.
func (l *Lab) SiteDir(site string) string { return filepath.Join(l.dir, "sites", site) }

// ModbusWrites returns the log of the writes that a site's Modbus slave accepted.
func (l *Lab) ModbusWrites(site string) string {
	return filepath.Join(l.SiteDir(site), "modbus-writes.jsonl")
}

// site finds a site by name.
func (l *Lab) site(name string) (site, error) {
	i := slices.Index(SiteNames, name)
	if i < 0 {
		return site{}, fmt.Errorf("site %q: the lab has %s", name, strings.Join(SiteNames, " and "))
	}
	return l.sites()[i], nil
}

func (l *Lab) sites() []site {
	all := make([]site, 0, len(SiteNames))
	for i, name := range SiteNames {
		s := site{
			Site: network.Site{Name: name, Number: i + 1},
			dir:  l.SiteDir(name), runDir: filepath.Join("/run/petiole-lab", name), cgroup: "petiole-" + name,
		}
		s.crio = crio.Config{
			Site: name, StateDir: filepath.Join(s.dir, "crio"), RunDir: filepath.Join(s.runDir, "crio"),
			PodSubnet: fmt.Sprintf("10.98.%d.0/24", s.Number), Registry: ImagesAddress,
			Conmon: host.Conmon, Pinns: l.bin("pinns"), Runtime: host.Runc, CNIPlugins: host.CNIPlugins,
			StorageDriver: "overlay", PolicyFile: filepath.Join(l.root, "deploy/lab/policy.json"),
		}
		if l.wrapRunc {
			s.crio.Runtime = l.bin("ociwrap")
		}
		all = append(all, s)
	}
	return all
}

// site holds the folders and addresses of one site on this machine.
type site struct {
	network.Site
	dir, runDir, cgroup string
	crio                crio.Config
	limits
}

func (s site) node() string { return s.Name + "-1" }

// leafConf returns the nats-server configuration of the site's leaf.
func (s site) leafConf() string { return filepath.Join(s.dir, "nats", "leaf.conf") }

// gatewaySeed returns the file that `leaf link` creates; gatewayCreds the one of `leaf link --jwt`.
func (s site) gatewaySeed() string  { return filepath.Join(s.dir, "nats", "link.nk") }
func (s site) gatewayCreds() string { return filepath.Join(s.dir, "nats", "link.creds") }

func (s site) kubeletRoot() string { return filepath.Join(s.dir, "kubelet") }

func (l *Lab) bin(name string) string { return filepath.Join(l.dir, "bin", name) }

func (l *Lab) template(name string) string { return filepath.Join(l.root, "deploy/lab", name) }

// operatorSeed returns the file with the seed of the site's operator; credentials are beside it.
func (l *Lab) operatorSeed(s site) string { return filepath.Join(l.dir, "nats", s.Name+"-operator.nk") }

func (l *Lab) operatorCreds(s site) string {
	return filepath.Join(l.dir, "nats", s.Name+"-operator.creds")
}

// hubFile returns the path of one of the hub's keys and credentials.
func (l *Lab) hubFile(name string) string { return l.operator().File(name) }

func (l *Lab) operator() fabric.Operator {
	return fabric.Operator(filepath.Join(l.dir, "nats/operator"))
}

// repository finds the module's root above folder.
func repository(folder string) (string, error) {
	dir, err := filepath.Abs(folder)
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		data, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module github.com/petiole-io/petiole\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("find the repository: %s is not inside a clone of it", dir)
		}
	}
}
