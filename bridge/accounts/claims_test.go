package accounts

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// testKeys writes the files of a hub and loads its keys.
func testKeys(t *testing.T) (*Keys, Files) {
	t.Helper()
	dir := t.TempDir()
	if err := WriteHub(dir, filepath.Join(dir, "accounts")); err != nil {
		t.Fatal(err)
	}
	f := Files{filepath.Join(dir, SigningKeyFile), filepath.Join(dir, SiteKeyFile), filepath.Join(dir, BridgeCreds)}
	k, err := LoadKeys(f)
	if err != nil {
		t.Fatal(err)
	}
	return k, f
}

func publicUser(t *testing.T) string {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// A bridge that takes over, and one that lost everything but its keys, must compute the same.
func TestClaimsDependOnTheSiteAlone(t *testing.T) {
	k, files := testKeys(t)
	again, err := LoadKeys(files)
	if err != nil {
		t.Fatal(err)
	}
	gateway, operator := publicUser(t), publicUser(t)
	s := Site{Name: "plant-a", Gateways: []string{gateway}, Operators: []string{operator}}
	one, err := k.Claims(s)
	if err != nil {
		t.Fatal(err)
	}
	two, err := again.Claims(s)
	if err != nil {
		t.Fatal(err)
	}
	for i := range one {
		if !Same(one[i], two[i]) {
			t.Errorf("%s differs", one[i].Name)
		}
		var r jwt.ValidationResults
		one[i].Validate(&r)
		if len(r.Issues) != 0 {
			t.Errorf("%s: %+v", one[i].Name, r.Issues[0])
		}
	}
	token, err := k.GatewayToken("plant-a", gateway, "")
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := again.GatewayToken("plant-a", gateway, token); err != nil || kept != token {
		t.Errorf("the token of a gateway is replaced: %v", err)
	}
	if other, err := again.GatewayToken("plant-b", gateway, token); err != nil || other == token {
		t.Errorf("another site's token is kept: %v", err)
	}
	other, err := k.Claims(Site{Name: "plant-b", Gateways: []string{gateway}})
	if err != nil {
		t.Fatal(err)
	}
	if other[0].Subject == one[0].Subject {
		t.Error("two sites have one account")
	}
	for key := range other[0].SigningKeys {
		if _, shared := one[0].SigningKeys[key]; shared {
			t.Error("two sites have a signing key in common")
		}
	}
	strangers, _ := testKeys(t)
	theirs, err := strangers.Claims(s)
	if err != nil {
		t.Fatal(err)
	}
	if theirs[0].Subject == one[0].Subject {
		t.Error("another secret gives the same account")
	}
}

// A hub gives back what it was given.
func TestStoredClaimsAreTheSame(t *testing.T) {
	k, _ := testKeys(t)
	gateway := publicUser(t)
	c, err := k.Claims(Site{Name: "plant-a", Gateways: []string{gateway}, Operators: []string{publicUser(t)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range c {
		token, err := k.Sign(want)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := jwt.DecodeAccountClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		if !Same(stored, want) {
			t.Errorf("%s is not the same when it is read again", want.Name)
		}
		stored.Limits.Subs++
		if Same(stored, want) {
			t.Errorf("%s is the same with another limit", want.Name)
		}
	}
}

// A site without gateways is one that nobody can connect to.
func TestRevokedSiteHasNoUsers(t *testing.T) {
	k, _ := testKeys(t)
	c, err := k.Claims(Site{Name: "plant-a"})
	if err != nil {
		t.Fatal(err)
	}
	if len(c) != 1 || len(c[0].SigningKeys) != 0 || c[0].Limits.LeafNodeConn != 0 {
		t.Errorf("%+v", c)
	}
}

// What a gateway connects with has no end: one that was away for years needs nobody to let it in. What
// ends is what its Site no longer lists (decision 25).
func TestAGatewaysCredentialsDoNotExpire(t *testing.T) {
	k, _ := testKeys(t)
	gateway := publicUser(t)
	c, err := k.Claims(Site{Name: "plant-a", Gateways: []string{gateway}})
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range c {
		if account.Expires != 0 {
			t.Errorf("the account %s expires at %d", account.Name, account.Expires)
		}
	}
	token, err := k.GatewayToken("plant-a", gateway, "")
	if err != nil {
		t.Fatal(err)
	}
	user, err := jwt.DecodeUserClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	if user.Expires != 0 || user.Subject != gateway {
		t.Errorf("the gateway's JWT is for %s and expires at %d", user.Subject, user.Expires)
	}
}

// Every user's rights are in his account: nobody has more than what his role lists.
func TestPermissionsOfRoles(t *testing.T) {
	k, _ := testKeys(t)
	c, err := k.Claims(Site{Name: "plant-a", Gateways: []string{publicUser(t)}, Operators: []string{publicUser(t)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range c {
		for _, s := range account.SigningKeys {
			scope := s.(*jwt.UserScope)
			for kind, p := range map[string]jwt.Permission{"publish": scope.Template.Pub, "subscribe": scope.Template.Sub} {
				if len(p.Allow) == 0 {
					t.Errorf("a %s may %s anything", scope.Role, kind)
				}
				for _, subject := range p.Allow {
					if strings.HasPrefix(subject, "desired.") || strings.HasPrefix(subject, "$SYS.") || strings.HasPrefix(subject, ">") || subject == "$JS.plant-a.API.>" {
						t.Errorf("a %s may %s %s", scope.Role, kind, subject)
					}
				}
			}
			if len(scope.Template.AllowedConnectionTypes) == 0 {
				t.Errorf("a %s may connect in any way", scope.Role)
			}
		}
		if account.Limits.Subs <= 0 || account.Limits.Payload <= 0 || account.Limits.Conn <= 0 || account.Limits.LeafNodeConn < 0 || account.Limits.IsJSEnabled() {
			t.Errorf("%s has the limits %+v", account.Name, account.Limits)
		}
	}
}

// A site without operators answers no requests of theirs.
func TestASiteWithoutOperatorsAnswersNobody(t *testing.T) {
	k, _ := testKeys(t)
	c, err := k.Claims(Site{Name: "plant-a", Gateways: []string{publicUser(t)}})
	if err != nil {
		t.Fatal(err)
	}
	if len(c) != 1 || len(c[0].Exports) != 0 {
		t.Errorf("%d accounts, exports %v", len(c), c[0].Exports)
	}
	for _, s := range c[0].SigningKeys {
		for _, subject := range s.(*jwt.UserScope).Template.Sub.Allow {
			if strings.HasPrefix(subject, "$JS.") || strings.HasPrefix(subject, "command.") {
				t.Errorf("a gateway may subscribe to %s", subject)
			}
		}
	}
}

func TestInvalidKeysAreNamed(t *testing.T) {
	k, files := testKeys(t)
	account, err := k.identity("plant-a", roleGateway)
	if err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]Site{
		`spec.gateways[0]: "nobody"`:        {Name: "plant-a", Gateways: []string{"nobody"}},
		`spec.operators[1]: "` + account:    {Name: "plant-a", Operators: []string{publicUser(t), account}},
		"spec.gateways: 3 keys: must be at": {Name: "plant-a", Gateways: []string{publicUser(t), publicUser(t), publicUser(t)}},
	} {
		if _, err := k.Claims(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	swapped := Files{OperatorKey: files.SiteKey, SiteKey: files.OperatorKey, Bridge: files.Bridge}
	if _, err := LoadKeys(swapped); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), files.SiteKey) {
		t.Errorf("keys that were swapped: %v", err)
	}
	swapped = Files{OperatorKey: files.OperatorKey, SiteKey: files.SiteKey, Bridge: files.SiteKey}
	if _, err := LoadKeys(swapped); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), files.SiteKey) {
		t.Errorf("a key in place of credentials: %v", err)
	}
	if _, err := LoadKeys(Files{OperatorKey: "missing", SiteKey: files.SiteKey, Bridge: files.Bridge}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// WriteHub never replaces a key: whoever has lost one has lost the hub.
func TestWriteHubKeepsWhatExists(t *testing.T) {
	_, files := testKeys(t)
	dir := filepath.Dir(files.SiteKey)
	before := contents(t, dir)
	if len(before) != 10 {
		t.Errorf("%d files", len(before))
	}
	if err := WriteHub(dir, filepath.Join(dir, "accounts")); !errors.Is(err, ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	if !reflect.DeepEqual(contents(t, dir), before) {
		t.Error("files have changed")
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, BridgeCreds), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteHub(other, "accounts"); !errors.Is(err, ErrExists) || len(contents(t, other)) != 1 {
		t.Errorf("beside a file that exists: %v, %d files", err, len(contents(t, other)))
	}
}

// contents reads the files of a folder and checks that nobody else can.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 && len(entries) > 1 {
			t.Errorf("%s has mode %s: %v", e.Name(), info.Mode(), err)
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(data)
	}
	return all
}
