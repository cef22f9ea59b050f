package leaf

import (
	"fmt"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/leaf/natsd"
)

// connect returns the leaf's own connection: in process to the embedded server, or to the server
// of cfg.URL when embedded is nil.
func connect(cfg NATSConfig, embedded *natsd.Server, site string, log *zap.Logger) (*nats.Conn, error) {
	if embedded != nil {
		return embedded.Connect()
	}
	login, err := cfg.login()
	if err != nil {
		return nil, err
	}
	return natsd.Dial(cfg.URL, site, log, login...)
}

// login returns how the leaf authenticates at a nats-server outside of this process.
func (c NATSConfig) login() ([]nats.Option, error) {
	if c.User == "" {
		return nil, nil
	}
	password, err := credential.ReadPassword(c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("nats.passwordFile: %w", err)
	}
	return []nats.Option{nats.UserInfo(c.User, password)}, nil
}
