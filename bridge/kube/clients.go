package kube

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	certificatesv1client "k8s.io/client-go/kubernetes/typed/certificates/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	storagev1client "k8s.io/client-go/kubernetes/typed/storage/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
	"k8s.io/client-go/util/flowcontrol"
)

// The ways in which the bridge impersonates a node.
const (
	// ImpersonationConstrained is constrained impersonation (KEP-5284, Kubernetes 1.36).
	ImpersonationConstrained = "constrained"
	// ImpersonationClassic sets user and group, and needs the right to impersonate both.
	ImpersonationClassic = "classic"
)

// RESTConfig returns the configuration for the API server: that of a kubeconfig file, or, if
// kubeconfig is empty, that of the pod's service account. All clients together send qps
// requests a second, with bursts; NewClients has the exceptions. It does not connect.
func RESTConfig(kubeconfig string, qps float32, burst int) (*rest.Config, error) {
	var rc *rest.Config
	var err error
	if kubeconfig == "" {
		if rc, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("configure Kubernetes client in the cluster: %w", err)
		}
	} else if rc, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return nil, fmt.Errorf("configure Kubernetes client from %s: %w", kubeconfig, err)
	}
	rc.UserAgent = "petiole-bridge"
	rc.QPS, rc.Burst = qps, burst
	// All clients share one bucket, including the impersonating ones.
	rc.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(qps, burst)
	return rc, nil
}

// Clients are the clients for the API server: the bridge's own, and one for each node that it
// impersonates. It is safe for concurrent use.
type Clients struct {
	// Own and Dynamic act in the bridge's own name.
	Own     kubernetes.Interface
	Dynamic dynamic.Interface
	// Leases is the client for node leases. It has a rate limit of its own, because a node
	// whose lease expires loses its pods.
	Leases coordinationv1client.LeasesGetter
	// Election is the client for the bridge's lease. It has a rate limit of its own, and may
	// write even if this bridge does not lead.
	Election coordinationv1client.LeasesGetter

	config  *rest.Config
	classic bool
	idle    func()

	mu    sync.Mutex
	nodes map[string]*NodeClient
}

// NodeClient impersonates system:node:<node>, so that the API server's Node authorizer and
// NodeRestriction limit what it can do.
type NodeClient struct {
	Core         corev1client.CoreV1Interface
	Storage      storagev1client.StorageV1Interface
	Certificates certificatesv1client.CertificatesV1Interface
	idle         func()
}

// NewClients creates the clients. The requests of all except Election pass the transport that
// fence returns, which decides about writes. impersonation is one of the Impersonation
// constants. It does not connect.
func NewClients(rc *rest.Config, impersonation string, fence transport.WrapperFunc) (*Clients, error) {
	election, electionIdle, err := newElectionClient(rc)
	if err != nil {
		return nil, err
	}
	rc = rest.CopyConfig(rc)
	rc.Wrap(fence)
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
	return &Clients{
		config: rc, Own: own, Dynamic: dyn, Leases: leases, Election: election,
		idle:    func() { hc.CloseIdleConnections(); electionIdle() },
		classic: impersonation == ImpersonationClassic, nodes: map[string]*NodeClient{},
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

func newElectionClient(rc *rest.Config) (coordinationv1client.LeasesGetter, func(), error) {
	rc = rest.CopyConfig(rc)
	rc.UserAgent += " leader-election"
	rc.RateLimiter, rc.QPS, rc.Burst = nil, 20, 40
	rc.Timeout = electionTimeout
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, nil, fmt.Errorf("create Kubernetes client: %w", err)
	}
	client, err := coordinationv1client.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, nil, fmt.Errorf("create client for the leader election: %w", err)
	}
	return client, hc.CloseIdleConnections, nil
}

// As returns the client that impersonates the node.
func (c *Clients) As(node string) (*NodeClient, error) {
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

func newNodeClient(rc *rest.Config) (*NodeClient, error) {
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
	certificates, err := certificatesv1client.NewForConfigAndClient(rc, hc)
	if err != nil {
		return nil, err
	}
	return &NodeClient{Core: core, Storage: storage, Certificates: certificates, idle: hc.CloseIdleConnections}, nil
}

// Forget drops the client of a deleted node.
func (c *Clients) Forget(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nodes, node)
}

// Close closes the idle connections. No request may be in progress.
func (c *Clients) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.idle()
	}
	c.idle()
}
