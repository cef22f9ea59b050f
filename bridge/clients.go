package bridge

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	storagev1client "k8s.io/client-go/kubernetes/typed/storage/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
)

// restConfig returns the configuration for the API server. It does not connect.
func restConfig(cfg KubernetesConfig) (*rest.Config, error) {
	var rc *rest.Config
	var err error
	if cfg.Kubeconfig == "" {
		if rc, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("configure Kubernetes client in the cluster: %w", err)
		}
	} else if rc, err = clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig); err != nil {
		return nil, fmt.Errorf("configure Kubernetes client from %s: %w", cfg.Kubeconfig, err)
	}
	rc.UserAgent = "petiole-bridge"
	rc.QPS, rc.Burst = cfg.QPS, cfg.Burst
	// All clients share one bucket, including the impersonating ones; newClients has the
	// exceptions.
	rc.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(cfg.QPS, cfg.Burst)
	return rc, nil
}

// clients are the clients for the API server: the bridge's own, and one for each node that it
// impersonates.
type clients struct {
	config  *rest.Config
	own     kubernetes.Interface
	dynamic dynamic.Interface
	// leases is the client for node leases. It has a rate limit of its own, because a node
	// whose lease expires loses its pods.
	leases coordinationv1client.LeasesGetter
	// election is the client for the bridge's lease. It has a rate limit of its own, and may
	// write even if this bridge does not lead.
	election kubernetes.Interface
	classic  bool
	idle     func()

	mu    sync.Mutex
	nodes map[string]*nodeClient
}

// nodeClient impersonates system:node:<node>, so that the API server's Node authorizer and
// NodeRestriction limit what it can do.
type nodeClient struct {
	core    corev1client.CoreV1Interface
	storage storagev1client.StorageV1Interface
	idle    func()
}

// newClients creates the clients. All writes except those of the election pass the fence.
func newClients(rc *rest.Config, impersonation string, f *fence) (*clients, error) {
	election, electionIdle, err := newElectionClient(rc)
	if err != nil {
		return nil, err
	}
	rc = rest.CopyConfig(rc)
	rc.Wrap(f.transport)
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("create Kubernetes client: %w", err)
	}
	own, err := kubernetes.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, fmt.Errorf("create Kubernetes client: %w", err)
	}
	dyn, err := dynamic.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, fmt.Errorf("create dynamic Kubernetes client: %w", err)
	}
	leases, err := newLeasesClient(rc, hc)
	if err != nil {
		return nil, err
	}
	return &clients{
		config: rc, own: own, dynamic: dyn, leases: leases, election: election,
		idle:    func() { hc.CloseIdleConnections(); electionIdle() },
		classic: impersonation == ImpersonationClassic, nodes: map[string]*nodeClient{},
	}, nil
}

// newLeasesClient creates a client with a rate limit of its own, as high as that of all others
// together.
func newLeasesClient(rc *rest.Config, hc *http.Client) (coordinationv1client.LeasesGetter, error) {
	rc = rest.CopyConfig(rc)
	rc.RateLimiter = nil
	client, err := coordinationv1client.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, fmt.Errorf("create client for leases: %w", err)
	}
	return client, nil
}

// electionTimeout bounds each request for the lease, so that a request lost on a dead
// connection leaves time for another.
const electionTimeout = 3 * time.Second

func newElectionClient(rc *rest.Config) (kubernetes.Interface, func(), error) {
	rc = rest.CopyConfig(rc)
	rc.UserAgent += " leader-election"
	rc.RateLimiter, rc.QPS, rc.Burst = nil, 20, 40
	rc.Timeout = electionTimeout
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, nil, fmt.Errorf("create Kubernetes client: %w", err)
	}
	client, err := kubernetes.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, nil, fmt.Errorf("create Kubernetes client: %w", err)
	}
	return client, hc.CloseIdleConnections, nil
}

// as returns the client that impersonates the node.
func (c *clients) as(node string) (*nodeClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[node]; n != nil {
		return n, nil
	}
	rc := rest.CopyConfig(c.config)
	rc.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node}
	if c.classic {
		// Constrained impersonation sets the group itself and rejects explicit groups.
		rc.Impersonate.Groups = []string{"system:nodes"}
	}
	n, err := newNodeClient(rc)
	if err != nil {
		return nil, fmt.Errorf("create client for node %s: %w", node, err)
	}
	c.nodes[node] = n
	return n, nil
}

func newNodeClient(rc *rest.Config) (*nodeClient, error) {
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, err
	}
	core, err := corev1client.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, err
	}
	storage, err := storagev1client.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, err
	}
	return &nodeClient{core: core, storage: storage, idle: hc.CloseIdleConnections}, nil
}

// forget drops the client of a deleted node.
func (c *clients) forget(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nodes, node)
}

// close closes the idle connections. No request may be in progress.
func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.idle()
	}
	c.idle()
}
