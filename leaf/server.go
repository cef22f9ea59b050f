package leaf

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// startTimeout is how long the embedded server may take to recover its store.
const startTimeout = 60 * time.Second

// startServer runs the site's leaf node in this process, from a stock nats-server
// configuration file. It returns when the server accepts connections.
func startServer(ctx context.Context, configFile string, log *zap.Logger) (*server.Server, error) {
	opts, err := server.ProcessConfigFile(configFile)
	if err != nil {
		return nil, fmt.Errorf("nats.configFile: %w", err)
	}
	opts.NoSigs = true // the leaf handles signals
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("create nats-server of %s: %w", configFile, err)
	}
	s.SetLoggerV2(natsLogger{log.Named("nats").Sugar()}, opts.Debug, opts.Trace, false)
	s.Start()
	deadline := time.Now().Add(startTimeout)
	for !s.ReadyForConnections(100 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			s.Shutdown()
			s.WaitForShutdown()
			return nil, fmt.Errorf("start nats-server of %s: not ready within %s", configFile, startTimeout)
		}
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start nats-server of %s: JetStream is not enabled; its configuration needs a jetstream block", configFile)
	}
	return s, nil
}

// connect returns the leaf's own connection: in process to s, or to the server of
// cfg.URL when s is nil. It retries without end; a lost connection is logged once.
func connect(cfg NATSConfig, s *server.Server, site string, log *zap.Logger) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("petiole-leaf"), nats.MaxReconnects(-1), nats.ReconnectWait(time.Second),
		nats.RetryOnFailedConnect(s == nil), nats.CustomInboxPrefix("_INBOX_" + site),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("nats connection lost", zap.Error(err)) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("nats connection back", zap.String("url", nc.ConnectedUrlRedacted())) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("nats error", zap.String("subject", subject), zap.Error(err))
		}),
	}
	if cfg.User != "" {
		password := ""
		if cfg.PasswordFile != "" {
			data, err := os.ReadFile(cfg.PasswordFile)
			if err != nil {
				return nil, fmt.Errorf("nats.passwordFile: %w", err)
			}
			password = strings.TrimSpace(string(data))
		}
		opts = append(opts, nats.UserInfo(cfg.User, password))
	}
	url := cfg.URL
	if s != nil {
		opts = append(opts, nats.InProcessServer(s))
		url = ""
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the site's nats-server: %w", err)
	}
	return nc, nil
}

// natsLogger gives the embedded server's log to zap.
type natsLogger struct{ log *zap.SugaredLogger }

func (l natsLogger) Noticef(format string, v ...any) { l.log.Infof(format, v...) }
func (l natsLogger) Warnf(format string, v ...any)   { l.log.Warnf(format, v...) }
func (l natsLogger) Errorf(format string, v ...any)  { l.log.Errorf(format, v...) }
func (l natsLogger) Debugf(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l natsLogger) Tracef(format string, v ...any)  { l.log.Debugf(format, v...) }

// Fatalf logs only: whether the process ends is the leaf's decision.
func (l natsLogger) Fatalf(format string, v ...any) { l.log.Errorf(format, v...) }
