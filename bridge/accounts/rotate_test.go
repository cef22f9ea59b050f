package accounts_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

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
	keys, err := accounts.LoadKeys(accounts.Files{OperatorKey: h.File(accounts.SigningKeyFile), SiteKey: h.File(accounts.SiteKeyFile), Bridge: h.File(accounts.BridgeCreds)})
	must(t, err)
	h.Keys, h.Resolver = keys, accounts.NewResolver(h.Connect(t, accounts.AccountsCreds), keys)
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
