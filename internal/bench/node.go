package bench

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/network"
)

// node is one of the two nodes that are compared.
type node struct {
	// name is the Node's, label what tables call it.
	name, label string
	// client uses the kubelet's credentials and its connection to its API.
	client kubernetes.Interface
	// linkBytes counts what the node's link has carried.
	linkBytes func() (int64, error)
	// site is the node's end of its link.
	site network.Site
	// processes are the agent's, by what tables call them.
	processes func() (map[string]rig.Process, error)
}

// slug returns the node's name as a part of the name of a pod, which should have no dots.
func (n *node) slug() string { return strings.ReplaceAll(n.name, ".", "-") }

// siteNode is a site's node; its client watches the leaf's node API from inside.
func siteNode(r *rig.Rig, s *rig.Site) (*node, error) {
	client, err := nodeClient(r.NodeKubeconfig(s), s.Dial)
	if err != nil {
		return nil, err
	}
	return &node{
		name: s.Node, label: "Petiole", client: client, linkBytes: s.LinkBytes, site: s.Net,
		processes: func() (map[string]rig.Process, error) {
			leaf, err := s.Leaf()
			if err != nil {
				return nil, err
			}
			kubelet, err := s.Kubelet()
			if err != nil {
				return nil, err
			}
			return map[string]rig.Process{"leaf": leaf, "kubelet child": kubelet}, nil
		},
	}, nil
}

func nodeClient(kubeconfig string, dial func(context.Context, string, string) (net.Conn, error)) (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the node's kubeconfig: %w", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Dial, cfg.QPS, cfg.Burst = dial, 200, 400
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("create client of a node: %w", err)
	}
	return client, nil
}

// memory returns the memory of all processes of the node's agent together, and of each by its name.
func (n *node) memory() (rig.Memory, map[string]rig.Memory, error) {
	processes, err := n.processes()
	if err != nil {
		return rig.Memory{}, nil, err
	}
	var sum rig.Memory
	each := map[string]rig.Memory{}
	for name, p := range processes {
		m, err := p.Memory()
		if err != nil {
			return rig.Memory{}, nil, err
		}
		sum, each[name] = sum.Add(m), m
	}
	return sum, each, nil
}

// settle is the pause after the load of a node has changed, before it is
// measured: two of the kubelet's housekeeping periods.
const settle = 20 * time.Second
