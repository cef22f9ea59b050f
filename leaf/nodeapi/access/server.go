package access

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// names are those by which pods may call the API server.
var names = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}

// Certificates are the serving certificates of the listener for pods: for its address and for the
// cluster's addresses of the service of the API server, which the site may get or lose meanwhile.
type Certificates struct {
	Authority *identity.Authority
	// Address is that of the listener.
	Address net.IP
	Objects Objects

	mu   sync.Mutex
	last *tls.Certificate
	of   string
}

// Get returns the certificate of a new connection.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	addresses := []net.IP{c.Address, net.IPv4(127, 0, 0, 1)}
	for _, ip := range c.serviceAddresses() {
		if !slices.ContainsFunc(addresses, ip.Equal) {
			addresses = append(addresses, ip)
		}
	}
	var of strings.Builder
	for _, ip := range addresses {
		fmt.Fprintln(&of, ip)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.of == of.String() {
		return c.last, nil
	}
	cert, err := c.Authority.Issue(addresses, names)
	if err != nil {
		return nil, err
	}
	c.last, c.of = cert, of.String()
	return cert, nil
}

// serviceAddresses returns the cluster's addresses of the service of the API server, none while the
// site has no such service.
func (c *Certificates) serviceAddresses() []net.IP {
	o := c.Objects.Get(schema.GroupResource{Resource: "services"}, objects.Key{Namespace: "default", Name: "kubernetes"})
	if o == nil {
		return nil
	}
	var service corev1.Service
	if json.Unmarshal(o.JSON, &service) != nil {
		return nil
	}
	var ips []net.IP
	for _, a := range append([]string{service.Spec.ClusterIP}, service.Spec.ClusterIPs...) {
		if ip := net.ParseIP(a); ip != nil {
			ips = append(ips, ip)
		}
	}
	return ips
}
