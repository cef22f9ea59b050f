package hub

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// Config selects the hub and authenticates the bridge.
type Config struct {
	// Name is the name of the connection, which the hub shows.
	Name string
	// URLs, CAFile, CredentialsFile and NKeySeedFile are those of the bridge's configuration.
	URLs                                  []string
	CAFile, CredentialsFile, NKeySeedFile string
}

// Dial returns a connection that retries until Close is called. An unavailable hub is not an
// error. It logs one line per change of state.
func Dial(cfg Config, log *zap.Logger) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectJitter(200*time.Millisecond, time.Second),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		// Without a buffer, publishing fails while the hub is unavailable, and the caller
		// retries.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(c *nats.Conn) { log.Info("hub connected", zap.String("url", Redacted(c.ConnectedUrl()))) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("hub connected again", zap.String("url", Redacted(c.ConnectedUrl()))) }),
		nats.DisconnectErrHandler(func(c *nats.Conn, err error) {
			if !c.IsClosed() {
				log.Warn("hub disconnected", zap.Error(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			if s != nil {
				log.Warn("hub reports an error", zap.String("subject", s.Subject), zap.Error(err))
				return
			}
			log.Warn("hub reports an error", zap.Error(err))
		}),
	}
	if cfg.CAFile != "" {
		opts = append(opts, nats.RootCAs(cfg.CAFile))
	}
	if cfg.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.CredentialsFile))
	}
	if cfg.NKeySeedFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(cfg.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("read nkey seed %s: %w", cfg.NKeySeedFile, err)
		}
		opts = append(opts, nkey)
	}
	nc, err := nats.Connect(strings.Join(cfg.URLs, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the hub: %w", err)
	}
	if !nc.IsConnected() {
		log.Warn("hub not reachable, retrying", zap.Strings("urls", redactedAll(cfg.URLs)), zap.NamedError("last", nc.LastError()))
	}
	return nc, nil
}

func redactedAll(urls []string) []string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = Redacted(u)
	}
	return out
}

// Redacted returns a URL without its password or token, also if it cannot be parsed. A user
// without a password is a token.
func Redacted(value string) string {
	u, err := url.Parse(value)
	if err == nil {
		if _, password := u.User.Password(); u.User != nil && !password {
			u.User = url.User("xxxxx")
		}
		return u.Redacted()
	}
	if i := strings.LastIndexByte(value, '@'); i >= 0 {
		return "xxxxx" + value[i:]
	}
	return value
}

// Close closes the connection and waits until its callbacks are done.
func Close(nc *nats.Conn) {
	closed := make(chan struct{})
	var once sync.Once
	nc.SetClosedHandler(func(*nats.Conn) { once.Do(func() { close(closed) }) })
	if nc.IsClosed() {
		return
	}
	nc.Close()
	<-closed
}
