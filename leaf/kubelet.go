package leaf

import (
	"context"
	"net"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/leaf/kubeletapi"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams/tunnel"
)

// kubeletAPIDir is the folder of the credentials of the kubelet's port, in the data folder.
const kubeletAPIDir = "kubelet-api"

// kubeletAPI lets the bridge reach the kubelet's API. Its connection is its own: a long log does
// not hold up what else the leaf stores and reads.
type kubeletAPI struct {
	nc          *nats.Conn
	credentials *kubeletapi.Credentials
	config      tunnel.ServerConfig
}

func (l *Leaf) newKubeletAPI(embedded *natsd.Server) (*kubeletAPI, error) {
	credentials, err := kubeletapi.Load(filepath.Join(l.cfg.DataDir, kubeletAPIDir), l.cfg.Node)
	if err != nil {
		return nil, err
	}
	dialer, err := kubeletapi.NewDialer(credentials, l.cfg.Node, l.cfg.Kubelet.ConfigFile)
	if err != nil {
		return nil, err
	}
	log := l.log.Named("kubeletapi")
	nc, err := connect(l.cfg.NATS, embedded, l.cfg.Site, log)
	if err != nil {
		return nil, err
	}
	return &kubeletAPI{nc: nc, credentials: credentials, config: tunnel.ServerConfig{
		Site: l.cfg.Site, Node: l.cfg.Node, NC: nc, Dial: dialer.Dial, Timing: tunnel.DefaultTiming, Log: log,
	}}, nil
}

// run connects sessions with the kubelet until ctx ends.
func (k *kubeletAPI) run(ctx context.Context) error { return tunnel.NewServer(k.config).Run(ctx) }

// dial connects to the kubelet, for clients of the node API.
func (k *kubeletAPI) dial(ctx context.Context) (net.Conn, error) { return k.config.Dial(ctx) }
