package accounts_test

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestRotation replaces all keys of a hub while a site and a bridge use it: the former ones are
// valid until the rotation is finished, and refused after that. Sites keep their accounts and
// their gateways what they have.
func TestRotation(t *testing.T) {
	t.Parallel()
	h := natstest.StartOperatorHub(t)
	dir := filepath.Dir(h.File(accounts.OperatorConf))
	gateway := natstest.NewUser(t)
	site := accounts.Site{Name: "plant-a", Gateways: []string{gateway.Public}}
	h.Store(t, site)
	gatewayToken := token(t, h, "plant-a", gateway)
	former := map[string]string{}
	for name, account := range map[string]string{accounts.BridgeCreds: "FABRIC", accounts.AdminCreds: "FABRIC", accounts.AccountsCreds: "SYS", accounts.SystemCreds: "SYS"} {
		former[name] = keep(t, h.File(name))
		if err := connects(h, former[name]); err != nil {
			t.Fatalf("%s of %s: %v", name, account, err)
		}
	}
	formerKeys := h.Keys
	connected := func(when string) {
		t.Helper()
		polltest.Eventually(t, "the hub listens for leaves "+when, func() bool {
			c, err := net.Dial("tcp", h.LeafAddr())
			return err == nil && c.Close() == nil
		})
		polltest.NoError(t, "the hub accepts the gateway "+when, func(context.Context) error {
			l, err := dialLeaf(t, h, gatewayToken, gateway)
			if err == nil {
				return l.Close()
			}
			return err
		})
	}
	connected("before")

	must(t, accounts.Rotate(dir, accounts.SigningKeyFile, accounts.FabricKeyFile, accounts.SystemKeyFile))
	if err := accounts.Rotate(dir, accounts.BridgeCreds); !errors.Is(err, accounts.ErrRotating) {
		t.Errorf("a second rotation: %v", err)
	}
	h.Restart(t)
	connected("with both keys")
	for name, file := range former {
		if err := connects(h, file); err != nil {
			t.Errorf("the former %s while the rotation is not finished: %v", name, err)
		}
		if err := connects(h, h.File(name)); err != nil {
			t.Errorf("the new %s: %v", name, err)
		}
	}
	// The account of the site still has the former signature.
	if err := accounts.FinishRotation(dir); !errors.Is(err, accounts.ErrStillUsed) || !strings.Contains(err.Error(), "plant-a") {
		t.Fatalf("finished too early: %v", err)
	}
	connected("after an attempt that came too early")

	// The bridge has the new files. What its controller does when it finds another issuer.
	reload(t, h)
	h.Store(t, site)
	connected("with the new signature")
	must(t, accounts.FinishRotation(dir))
	h.Restart(t)
	connected("after the rotation")
	for name, file := range former {
		if err := connects(h, h.File(name)); err != nil {
			t.Errorf("the new %s after the rotation: %v", name, err)
		}
		if err := connects(h, file); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("the former %s after the rotation: %v", name, err)
		}
	}
	// Whoever has the former signing key, and a way to the resolver, makes no account that is served.
	claims, err := formerKeys.Claims(accounts.Site{Name: "plant-x", Gateways: []string{gateway.Public}})
	must(t, err)
	forger := accounts.NewResolver(h.Connect(t, accounts.AccountsCreds), formerKeys)
	_ = forger.Store(t.Context(), claims[0]) // the hub may store it, and does not use it
	forged, err := formerKeys.GatewayToken("plant-x", gateway.Public, "")
	must(t, err)
	if l, err := dialLeaf(t, h, forged, gateway); err == nil {
		_ = l.Close()
		t.Error("an account that the former key has signed is served")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.previous"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestRotationOfTheSitesKey replaces sites.nk, which somebody has stolen: the gateway connects with the
// JWT that it has and with the new one until the rotation is finished, then with the new one alone, and
// the account stays the same. The thief, who makes JWTs of his own with the former key, is refused from
// then on. The hub is not restarted.
func TestRotationOfTheSitesKey(t *testing.T) {
	t.Parallel()
	h := natstest.StartOperatorHub(t)
	dir := filepath.Dir(h.File(accounts.OperatorConf))
	gateway, thief := natstest.NewUser(t), natstest.NewUser(t)
	site := accounts.Site{Name: "plant-a", Gateways: []string{gateway.Public}}
	h.Store(t, site)
	account := accountKey(t, h, site)
	try := func(token string, u natstest.User, want bool, what string) {
		t.Helper()
		polltest.Eventually(t, fmt.Sprintf("%s is let in: %v", what, want), func() bool {
			l, err := dialLeaf(t, h, token, u)
			if err == nil {
				must(t, l.Close())
			}
			return (err == nil) == want
		})
	}
	former := token(t, h, "plant-a", gateway)
	stolen := forge(t, seedOf(t, h.File(accounts.SiteKeyFile), 0), account, gateway, thief)
	try(former, gateway, true, "the gateway before")
	try(stolen, thief, true, "the thief before")
	for round := range 2 {
		must(t, accounts.Rotate(dir, accounts.SiteKeyFile))
		if err := accounts.Rotate(dir, accounts.SiteKeyFile); !errors.Is(err, accounts.ErrRotating) {
			t.Errorf("a second rotation: %v", err)
		}
		reload(t, h)
		if !h.Keys.Rotating() {
			t.Error("the rotation that is under way is not reported")
		}
		h.Store(t, site)
		if now := accountKey(t, h, site); now != account {
			t.Errorf("the account was %s and is %s", account, now)
		}
		next, err := h.Keys.GatewayToken("plant-a", gateway.Public, former)
		must(t, err)
		if next == former {
			t.Error("the Site still has the former JWT")
		}
		try(former, gateway, true, "the gateway with its former JWT")
		try(next, gateway, true, "the gateway with its new JWT")

		var live *leafConn
		polltest.NoError(t, "the gateway stays connected with its former JWT", func(context.Context) (err error) {
			live, err = dialLeaf(t, h, former, gateway)
			return err
		})
		if err := accounts.FinishRotation(dir); !errors.Is(err, accounts.ErrRotating) {
			t.Errorf("the rotation of sites.nk is finished without its name: %v", err)
		}
		must(t, accounts.FinishRotation(dir, accounts.SiteKeyFile))
		reload(t, h)
		if h.Keys.Rotating() {
			t.Error("the rotation is not finished")
		}
		h.Store(t, site)
		live.closed(t)
		for range 3 {
			if _, err := dialLeaf(t, h, former, gateway); err == nil {
				t.Fatalf("round %d: the former JWT is accepted after the rotation", round)
			}
			if _, err := dialLeaf(t, h, stolen, thief); err == nil {
				t.Fatalf("round %d: the thief is let in after the rotation", round)
			}
		}
		try(next, gateway, true, "the gateway after the rotation")
		former = next
	}
	// What the first key is still used for signs nothing.
	if _, err := dialLeaf(t, h, sign(t, derived(t, seedOf(t, h.File(accounts.SiteKeyFile), 0), "account", "plant-a", "gateway"), account, thief, false), thief); err == nil {
		t.Error("a JWT that the account's identity has signed is accepted")
	}
	stolen = forge(t, seedOf(t, h.File(accounts.SiteKeyFile), 1), account, gateway, thief)
	try(stolen, thief, true, "a thief of the present key")
}

// reload has the hub's keys read again, as a bridge that is restarted does.
func reload(t *testing.T, h *natstest.OperatorHub) {
	t.Helper()
	keys, err := accounts.LoadKeys(accounts.Files{OperatorKey: h.File(accounts.SigningKeyFile), SiteKey: h.File(accounts.SiteKeyFile), Bridge: h.File(accounts.BridgeCreds)})
	must(t, err)
	h.Keys, h.Resolver = keys, accounts.NewResolver(h.Connect(t, accounts.AccountsCreds), keys)
}

func accountKey(t *testing.T, h *natstest.OperatorHub, s accounts.Site) string {
	t.Helper()
	claims, err := h.Keys.Claims(s)
	must(t, err)
	return claims[0].Subject
}

// seedOf returns the secret in one line of a file of seeds.
func seedOf(t *testing.T, path string, line int) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	_, secret, err := nkeys.DecodeSeed([]byte(strings.Fields(string(data))[line]))
	must(t, err)
	return secret
}

// derived computes a key as the bridge does.
func derived(t *testing.T, secret []byte, purpose ...string) nkeys.KeyPair {
	t.Helper()
	raw, err := hkdf.Key(sha256.New, secret, nil, "petiole "+strings.Join(purpose, "\x00"), 32)
	must(t, err)
	pair, err := nkeys.FromRawSeed(nkeys.PrefixByteAccount, raw)
	must(t, err)
	return pair
}

// forge returns a JWT of a thief in the place of plant-a's gateway.
func forge(t *testing.T, secret []byte, account string, gateway, thief natstest.User) string {
	t.Helper()
	return sign(t, derived(t, secret, "signer", "plant-a", "gateway", gateway.Public), account, thief, true)
}

func sign(t *testing.T, signer nkeys.KeyPair, account string, u natstest.User, scoped bool) string {
	t.Helper()
	c := jwt.NewUserClaims(u.Public)
	c.Name, c.IssuerAccount = "thief", account
	c.SetScoped(scoped)
	if !scoped {
		c.IssuerAccount = ""
	}
	token, err := c.Encode(signer)
	must(t, err)
	return token
}

// keep copies a file.
func keep(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	must(t, os.WriteFile(to, data, 0o600))
	return to
}

// connects returns the error with which the hub refuses credentials. It waits until the hub runs.
func connects(h *natstest.OperatorHub, creds string) (err error) {
	for start := time.Now(); time.Since(start) < polltest.Limit; time.Sleep(20 * time.Millisecond) {
		var nc *nats.Conn
		if nc, err = nats.Connect(h.URL(), nats.UserCredentials(creds), nats.MaxReconnects(0)); err == nil {
			nc.Close()
			return nil
		}
		if errors.Is(err, nats.ErrAuthorization) {
			return err
		}
	}
	return err
}
