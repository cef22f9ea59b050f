package rig

import (
	"path/filepath"
	"strings"

	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/network"
)

// Names of the lab's parts.
const (
	labDir = ".lab"

	// HubDaemon and the others are names of the lab's processes, for Rig.Daemon.
	HubDaemon          = "hub"
	BridgeDaemon       = "bridge"
	ControlPlaneDaemon = "controlplane"

	// BridgeDevice joins the sites; BridgePrefix is its network.
	BridgeDevice = "petiole0"
	BridgePrefix = "10.98.0.0/24"
	// Registry serves the images to the sites.
	Registry = "10.98.0.1:5000"

	hubContext = "hub"
	// hubLeafAddr is the address at which the sites reach the hub.
	hubLeafAddr = "10.98.0.1:7422"
	slaveAddr   = "127.0.0.1:502"
)

// layout holds the folders and names of one site of the lab.
type layout struct {
	Name, Node string
	Net        network.Site
}

var sites = []layout{
	{Name: "plant-a", Node: "plant-a-1", Net: network.Site{Name: "plant-a", Number: 1}},
	{Name: "plant-b", Node: "plant-b-1", Net: network.Site{Name: "plant-b", Number: 2}},
}

// LeafDaemon and SlaveDaemon are the names of the site's processes.
func (l layout) LeafDaemon() string  { return "leaf-" + l.Name }
func (l layout) SlaveDaemon() string { return "modbus-" + l.Name }

// DMISocket returns the socket at which mappers of the site register.
func (l layout) DMISocket() string { return filepath.Join("/run/petiole-lab", l.Name, "dmi.sock") }

func (l layout) socket() string { return filepath.Join("/run/petiole-lab", l.Name, "crio/crio.sock") }

// hostVeth returns the name of the host's end of the link.
func (l layout) hostVeth() string { return BridgeDevice + "-" + string(rune('0'+l.Net.Number)) }

// Image returns the reference of one of the lab's images by its short name.
func (r *Rig) Image(name string) string { return Registry + "/petiole/" + name + ":1" }

func (r *Rig) slaveWritesFile(site string) string {
	return filepath.Join(r.Dir, "sites", site, "modbus-writes.jsonl")
}

func (r *Rig) natsConfigHome() string { return filepath.Join(r.Dir, "config") }

// Bin returns the path of one of the lab's programs.
func (r *Rig) Bin(name string) string { return filepath.Join(r.Dir, "bin", name) }

// GatewayCreds returns the credentials with which a site's gateway connects to the hub.
func (r *Rig) GatewayCreds(s *Site) string {
	return filepath.Join(r.Dir, "sites", s.Name, "nats", "link.creds")
}

// UserFile returns the file with the password of a user of a site's nats-server
// (credential.ReadPassword).
func (r *Rig) UserFile(s *Site, user string) string {
	return filepath.Join(fabric.UsersDir(filepath.Join(r.Dir, "sites", s.Name, "nats", "leaf.conf")), user+".conf")
}

// HubCAFile returns the file of the authority that signed the hub's certificate.
func (r *Rig) HubCAFile() string { return filepath.Join(r.Dir, "nats", "nats-ca.crt") }

// NodeKubeconfig returns the kubeconfig of the site's kubelet for the node API.
func (r *Rig) NodeKubeconfig(s *Site) string {
	return filepath.Join(r.Dir, "sites", s.Name, "leaf", "kubeconfig")
}

// ControlPlaneDir returns the folder with the control plane's authority.
func (r *Rig) ControlPlaneDir() string { return filepath.Join(r.Dir, "controlplane") }

// APIAddress returns the API server's host and port.
func (r *Rig) APIAddress() string {
	_, hostPort, _ := strings.Cut(r.REST.Host, "://")
	return hostPort
}
