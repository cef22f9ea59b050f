package natstest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/bridge/accounts"
)

// The folders of a hub in operator mode: what accounts.WriteHub creates, and its accounts.
const (
	keysDir     = "keys"
	accountsDir = "accounts"
)

// User is a key pair of a gateway or of an operator.
type User struct{ Public, Seed string }

// NewUser creates a key pair.
func NewUser(t testing.TB) User {
	t.Helper()
	pair, err := nkeys.CreateUser()
	must(t, err)
	public, err := pair.PublicKey()
	must(t, err)
	seed, err := pair.Seed()
	must(t, err)
	return User{public, string(seed)}
}

// hubKeySet are the keys of the hubs of this process, and of the gateways of their sites.
type hubKeySet struct {
	keys *accounts.Keys
	// files are those of accounts.WriteHub.
	files map[string][]byte

	mu       sync.Mutex
	gateways map[string]User
	tokens   map[string]string
}

var theHubKeys = sync.OnceValues(newHubKeys)

func hubKeys(t testing.TB) *hubKeySet {
	t.Helper()
	k, err := theHubKeys()
	must(t, err)
	return k
}

// newHubKeys keeps the files in memory: no test owns them.
func newHubKeys() (*hubKeySet, error) {
	dir, err := os.MkdirTemp("", "hub-keys")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := accounts.WriteHub(dir, accountsDir); err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	k := &hubKeySet{files: map[string][]byte{}, gateways: map[string]User{}, tokens: map[string]string{}}
	if k.keys, err = accounts.LoadKeys(accounts.Files{
		OperatorKey: file(accounts.SigningKeyFile), SiteKey: file(accounts.SiteKeyFile), Bridge: file(accounts.BridgeCreds),
	}); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if k.files[e.Name()], err = os.ReadFile(file(e.Name())); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// write writes the files of a hub below dir and returns the path of its part of the configuration.
func (k *hubKeySet) write(t testing.TB, dir string) string {
	t.Helper()
	must(t, os.Mkdir(filepath.Join(dir, keysDir), 0o700))
	must(t, os.Mkdir(filepath.Join(dir, accountsDir), 0o700))
	for name, data := range k.files {
		if name == accounts.OperatorConf {
			data = []byte(strings.Replace(string(data), strconv.Quote(accountsDir), strconv.Quote(filepath.Join(dir, accountsDir)), 1))
		}
		must(t, os.WriteFile(filepath.Join(dir, keysDir, name), data, 0o600))
	}
	return filepath.Join(keysDir, accounts.OperatorConf)
}

// gateway returns the key pair of a site's gateway.
func (k *hubKeySet) gateway(t testing.TB, site string) User {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	u, ok := k.gateways[site]
	if !ok {
		u = NewUser(t)
		k.gateways[site] = u
	}
	return u
}

// token returns the JWT of a site's gateway.
func (k *hubKeySet) token(t testing.TB, site string) string {
	t.Helper()
	u := k.gateway(t, site)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tokens[site] == "" {
		token, err := k.keys.GatewayToken(site, u.Public, "")
		must(t, err)
		k.tokens[site] = token
	}
	return k.tokens[site]
}
