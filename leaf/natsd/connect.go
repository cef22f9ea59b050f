package natsd

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"
)

// Connect returns a connection in process, as the leaf's own user. It reconnects without end; a
// lost connection is logged once.
func (s *Server) Connect() (*nats.Conn, error) {
	own, err := login(s.key)
	if err != nil {
		return nil, err
	}
	return connect("", s.site, s.log, own, nats.InProcessServer(s), nats.ReconnectWait(100*time.Millisecond))
}

// Dial returns a connection of a site to a nats-server outside of this process, which may start
// later. It reconnects without end; a lost connection is logged once.
func Dial(url, site string, log *zap.Logger, login ...nats.Option) (*nats.Conn, error) {
	return connect(url, site, log, append(login, nats.RetryOnFailedConnect(true))...)
}

func connect(url, site string, log *zap.Logger, opts ...nats.Option) (*nats.Conn, error) {
	all := []nats.Option{
		nats.Name("petiole-leaf"), nats.Timeout(startTimeout), nats.MaxReconnects(-1), nats.ReconnectWait(time.Second), inbox(site),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				log.Warn("nats connection lost", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("nats connection back", zap.String("address", nc.ConnectedAddr())) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("nats error", zap.String("subject", subject), zap.Error(err))
		}),
	}
	nc, err := nats.Connect(url, append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the site's nats-server: %w", err)
	}
	return nc, nil
}

// inbox keeps the answers of a site's requests apart from those of other sites at the hub.
func inbox(site string) nats.Option { return nats.CustomInboxPrefix("_INBOX_" + site) }

// callFirst calls first with a connection to a server that nobody else can find yet.
func (s *Server) callFirst(ctx context.Context, started *server.Server, first func(context.Context, *nats.Conn)) error {
	own, err := login(s.key)
	if err != nil {
		return err
	}
	nc, err := nats.Connect("", own, nats.InProcessServer(started), inbox(s.site), nats.Timeout(startTimeout))
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	defer nc.Close()
	first(ctx, nc)
	return nil
}

// login returns how the leaf authenticates at the server.
func login(key nkeys.KeyPair) (nats.Option, error) {
	nkey, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the leaf's own nkey: %w", err)
	}
	return nats.Nkey(nkey, key.Sign), nil
}

// InProcessConn connects to the server that runs now (nats.InProcessConnProvider).
func (s *Server) InProcessConn() (net.Conn, error) {
	running := s.server()
	if running == nil {
		return nil, errNotRunning
	}
	return running.InProcessConn()
}
