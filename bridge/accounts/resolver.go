package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
)

// ErrRefused reports that the hub has answered and does not accept claims or a deletion.
var ErrRefused = errors.New("the hub refuses")

// requestTimeout bounds a request to the hub.
const requestTimeout = 5 * time.Second

// Resolver stores claims in the account resolver of the hub. Its connection is that of a user
// of the system account. In a cluster every server stores what one of them is told.
type Resolver struct {
	conn *nats.Conn
	keys *Keys
}

// NewResolver returns a resolver that uses the connection and signs with the keys.
func NewResolver(conn *nats.Conn, keys *Keys) *Resolver { return &Resolver{conn, keys} }

// Connected returns a channel that receives whenever the connection is established again, until stop
// is called.
func (r *Resolver) Connected() (connected <-chan nats.Status, stop func()) {
	ch := r.conn.StatusChanged(nats.CONNECTED)
	return ch, func() { r.conn.RemoveStatusListener(ch) }
}

// Store signs claims and stores them at the hub, which applies them at once.
func (r *Resolver) Store(ctx context.Context, c *jwt.AccountClaims) error {
	token, err := r.keys.Sign(c)
	if err != nil {
		return err
	}
	if _, err := r.request(ctx, "$SYS.REQ.CLAIMS.UPDATE", token); err != nil {
		return fmt.Errorf("store account %s: %w", c.Name, err)
	}
	return nil
}

// Delete removes accounts from the hub, which closes their connections. A server that is about to use an
// account for the first time may go on, so that the account has to be one without users already.
func (r *Resolver) Delete(ctx context.Context, accounts ...string) error {
	c := jwt.NewGenericClaims(r.keys.operatorKey)
	c.Data["accounts"] = accounts
	token, err := c.Encode(r.keys.operator)
	if err != nil {
		return fmt.Errorf("delete accounts: %w", err)
	}
	if _, err := r.request(ctx, "$SYS.REQ.CLAIMS.DELETE", token); err != nil {
		return fmt.Errorf("delete accounts: %w", err)
	}
	return nil
}

// List returns the public keys of all accounts at the hub.
func (r *Resolver) List(ctx context.Context) ([]string, error) {
	data, err := r.request(ctx, "$SYS.REQ.CLAIMS.LIST", "")
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	var accounts []string
	if err := json.Unmarshal(data, &accounts); err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return accounts, nil
}

// Lookup returns the claims of an account, nil if the hub does not have it.
func (r *Resolver) Lookup(ctx context.Context, account string) (*jwt.AccountClaims, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := r.conn.RequestWithContext(ctx, "$SYS.REQ.ACCOUNT."+account+".CLAIMS.LOOKUP", nil)
	if err != nil {
		return nil, fmt.Errorf("look up account %s: %w", account, err)
	}
	if len(m.Data) == 0 {
		return nil, nil
	}
	c, err := jwt.DecodeAccountClaims(string(m.Data))
	if err != nil {
		return nil, fmt.Errorf("look up account %s: %w", account, err)
	}
	return c, nil
}

// request sends a request and returns the data of its answer.
func (r *Resolver) request(ctx context.Context, subject, body string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := r.conn.RequestWithContext(ctx, subject, []byte(body))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error *struct {
			Code        int    `json:"code"`
			Description string `json:"description"`
		} `json:"error"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("%w: %s (%d)", ErrRefused, answer.Error.Description, answer.Error.Code)
	}
	return answer.Data, nil
}
