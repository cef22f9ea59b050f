package bridge

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/kubeletapi"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/streams/tunnel"
)

// serveKubelets serves the kubelet API of the sites' nodes until ctx ends, whether this bridge
// leads or not. Its clients are its own, so that neither a long log nor many requests hold up the
// other components.
func (b *Bridge) serveKubelets(ctx context.Context) error {
	cfg := b.cfg.KubeletAPI
	if cfg.Listen == "" {
		return nil
	}
	rc, err := kube.RESTConfig(b.cfg.Kubernetes.Kubeconfig, b.cfg.Kubernetes.QPS, b.cfg.Kubernetes.Burst)
	if err != nil {
		return err
	}
	rc.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(rc.QPS, rc.Burst)
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("create Kubernetes client of the kubelet API: %w", err)
	}
	log := b.log.Named("kubeletapi")
	nc, err := hub.Dial(b.cfg.NATS.hub(b.cfg.LeaderElection.Identity+" kubelets"), log)
	if err != nil {
		return err
	}
	defer hub.Close(nc)
	dialer, err := tunnel.NewDialer(nc, tunnel.DefaultTiming, log)
	if err != nil {
		return err
	}
	defer dialer.Close()
	server, err := kubeletapi.New(kubeletapi.Config{
		Listen: cfg.Listen, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, ClientCAFile: cfg.ClientCAFile,
		Client: client, Tunnel: dialer, Log: log,
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// kubeletEndpoint returns where the API server reaches the kubelets of the sites.
func (b *Bridge) kubeletEndpoint(ctx context.Context, c *kube.Clients) (writeback.Endpoint, error) {
	cfg := b.cfg.KubeletAPI
	e := writeback.Endpoint{Address: cfg.Address, Type: corev1.NodeAddressType(cfg.AddressType), Port: cfg.Port}
	if cfg.Listen == "" {
		return e, nil
	}
	if e.Port == 0 {
		_, port, err := net.SplitHostPort(cfg.Listen)
		if err != nil {
			return e, fmt.Errorf("kubeletAPI.listen: %w", err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return e, fmt.Errorf("kubeletAPI.listen: %w", err)
		}
		e.Port = int32(n) //nolint:gosec // 16 bits
	}
	if e.Type == "" {
		e.Type = corev1.NodeInternalIP
		if cfg.Address != "" && net.ParseIP(cfg.Address) == nil {
			e.Type = corev1.NodeHostName
		}
	}
	if cfg.Service == "" {
		return e, nil
	}
	namespace, name, _ := strings.Cut(cfg.Service, "/")
	s, err := c.Own.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return e, fmt.Errorf("find the address of kubeletAPI.service: %w", err)
	}
	if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return e, fmt.Errorf("kubeletAPI.service: Service %s has no cluster IP", cfg.Service)
	}
	e.Address = s.Spec.ClusterIP
	return e, nil
}
