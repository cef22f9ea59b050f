package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// CloudNode is a node in the cloud, with a stock kubelet: all others of the lab are at its sites.
type CloudNode struct {
	stock    *stock
	services []*proxy
}

// StartCloudNode starts the node and returns when it is Ready. In the place of a kube-proxy each of
// services, which is an IP address and port in the network of the node and its pods, is connected with
// an address of this machine.
func StartCloudNode(ctx context.Context, r *rig.Rig, out io.Writer, services map[string]string) (*CloudNode, error) {
	s, err := newStock(r, out)
	if err != nil {
		return nil, err
	}
	n := &CloudNode{stock: s}
	if err := n.start(ctx, services); err != nil {
		return nil, errors.Join(err, n.Stop()) //nolint:contextcheck // also once ctx has ended
	}
	return n, nil
}

func (n *CloudNode) start(ctx context.Context, services map[string]string) error {
	if _, err := n.stock.start(ctx); err != nil {
		return err
	}
	for service, target := range services {
		if err := n.serve(service, target); err != nil {
			return fmt.Errorf("serve %s on the cloud's node: %w", service, err)
		}
	}
	return nil
}

func (n *CloudNode) serve(service, target string) error {
	address, err := netip.ParseAddrPort(service)
	if err != nil {
		return err
	}
	if err := n.stock.site.AddAddress(address.Addr().String()); err != nil {
		return err
	}
	l, err := n.stock.site.Listen(service)
	if err != nil {
		return err
	}
	n.services = append(n.services, serveProxy(l, target, netip.MustParsePrefix(stockPods)))
	return nil
}

// Dial connects from the node, as to the addresses of its pods.
func (n *CloudNode) Dial(network, address string) (net.Conn, error) {
	return n.stock.dial(context.Background(), network, address)
}

// Stop removes the node with its pods.
func (n *CloudNode) Stop() error {
	var errs []error
	for _, p := range n.services {
		errs = append(errs, p.close())
	}
	return errors.Join(append(errs, n.stock.stop())...)
}
