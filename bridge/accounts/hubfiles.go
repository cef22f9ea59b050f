package accounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/internal/durable"
)

// The files that WriteHub creates.
const (
	// OperatorConf is the part of the hub's configuration that hub.conf includes.
	OperatorConf = "operator.conf"
	// OperatorKeyFile is the operator's identity. It signs the operator's JWT and is needed to
	// replace a signing key; keep it offline.
	OperatorKeyFile = "operator.nk"
	// SystemKeyFile signs the users of the system account. The identity of the account signs
	// nothing, and its seed is not kept.
	SystemKeyFile = "system-signing.nk"
	// FabricKeyFile signs the users of FABRIC, as SystemKeyFile does.
	FabricKeyFile = "fabric-signing.nk"
	// SigningKeyFile is the operator's signing key, for the bridge.
	SigningKeyFile = "operator-signing.nk"
	// SiteKeyFile derives the keys of the sites, for the bridge: see Files.SiteKey for its contents.
	SiteKeyFile = "sites.nk"
	// BridgeCreds is the bridge's user in FABRIC.
	BridgeCreds = "bridge.creds"
	// AccountsCreds is the bridge's user in the system account. It may only change accounts.
	AccountsCreds = "accounts.creds"
	// AdminCreds is the user of people in FABRIC.
	AdminCreds = "admin.creds"
	// SystemCreds is the user of people in the system account.
	SystemCreds = "system.creds"
)

// ErrExists reports that a file exists already.
var ErrExists = errors.New("exists already")

// WriteHub creates, in an empty or new folder dir, the keys of a hub in operator mode, the
// credentials of its first users, and OperatorConf. resolverDir is the folder in which the hub
// keeps the accounts. Only the owner may read the files; WriteHub never overwrites one.
func WriteHub(dir, resolverDir string) error {
	h := hubFiles{dir: dir, keys: map[string]nkeys.KeyPair{}}
	for _, name := range []string{
		OperatorConf, OperatorKeyFile, SystemKeyFile, FabricKeyFile, SigningKeyFile, SiteKeyFile, BridgeCreds, AccountsCreds, AdminCreds, SystemCreds,
	} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w: choose another folder", filepath.Join(dir, name), ErrExists)
		}
	}
	for name, create := range map[string]func() (nkeys.KeyPair, error){
		OperatorKeyFile: nkeys.CreateOperator, SigningKeyFile: nkeys.CreateOperator,
		SystemKeyFile: nkeys.CreateAccount, FabricKeyFile: nkeys.CreateAccount, SiteKeyFile: nkeys.CreateAccount,
	} {
		if err := h.newKey(name, create); err != nil {
			return err
		}
	}
	system, err := newAccount()
	if err != nil {
		return err
	}
	fabric, err := newAccount()
	if err != nil {
		return err
	}
	operator, err := h.operatorToken(system)
	if err != nil {
		return err
	}
	systemToken, err := h.accountToken(systemClaims(system), SystemKeyFile)
	if err != nil {
		return err
	}
	fabricToken, err := h.accountToken(FabricClaims(fabric), FabricKeyFile)
	if err != nil {
		return err
	}
	for _, u := range []struct{ file, account, signer string }{
		{BridgeCreds, fabric, FabricKeyFile},
		{AdminCreds, fabric, FabricKeyFile},
		{AccountsCreds, system, SystemKeyFile},
		{SystemCreds, system, SystemKeyFile},
	} {
		if err := h.writeUser(u.file, u.account, u.signer); err != nil {
			return err
		}
	}
	conf := fmt.Sprintf(`# Made by: bridge hub init. hub.conf includes it. No secrets: keys are in the files beside it.
operator: %q
system_account: %s
resolver { type: full, dir: %q, allow_delete: true, hard_delete: true, interval: "2m", timeout: "5s" }
resolver_preload {
  %s: %q # %s
  %s: %q # %s
}
`, operator, system, resolverDir, system, systemToken, SystemAccount, fabric, fabricToken, FabricAccount)
	return h.write(OperatorConf, []byte(conf))
}

// hubFiles are the files of one hub while they are created.
type hubFiles struct {
	dir  string
	keys map[string]nkeys.KeyPair
}

func (h *hubFiles) write(name string, data []byte) error {
	path := filepath.Join(h.dir, name)
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (h *hubFiles) newKey(name string, create func() (nkeys.KeyPair, error)) error {
	pair, err := create()
	if err != nil {
		return fmt.Errorf("create key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return fmt.Errorf("create key: %w", err)
	}
	h.keys[name] = pair
	return h.write(name, append(seed, '\n'))
}

// public returns the public key of a pair that newKey has created.
func (h *hubFiles) public(name string) string {
	public, err := h.keys[name].PublicKey()
	if err != nil {
		panic(err) // a key with a seed has a public key
	}
	return public
}

// newAccount returns the public key of a new account.
func newAccount() (string, error) {
	pair, err := nkeys.CreateAccount()
	if err != nil {
		return "", fmt.Errorf("create account: %w", err)
	}
	return pair.PublicKey()
}

func (h *hubFiles) operatorToken(system string) (string, error) {
	c := jwt.NewOperatorClaims(h.public(OperatorKeyFile))
	c.Name, c.SystemAccount = "petiole", system
	c.SigningKeys.Add(h.public(SigningKeyFile))
	// Accounts must be signed by a signing key, and users by a key that their account lists: the
	// identity of a site's account signs nobody.
	c.StrictSigningKeyUsage = true
	token, err := c.Encode(h.keys[OperatorKeyFile])
	if err != nil {
		return "", fmt.Errorf("sign operator: %w", err)
	}
	return token, nil
}

// accountToken signs claims of an account whose users are signed by the key of a file.
func (h *hubFiles) accountToken(c *jwt.AccountClaims, signer string) (string, error) {
	c.SigningKeys.Add(h.public(signer))
	token, err := c.Encode(h.keys[SigningKeyFile])
	if err != nil {
		return "", fmt.Errorf("sign account %s: %w", c.Name, err)
	}
	return token, nil
}

// systemClaims returns the claims of the system account.
func systemClaims(public string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(public)
	c.Name = SystemAccount
	return c
}

// writeUser creates a user and its credentials.
func (h *hubFiles) writeUser(name, account, signer string) error {
	creds, err := h.newUser(name, account, signer)
	if err != nil {
		return err
	}
	return h.write(name, creds)
}

// newUser creates a user and returns its credentials, for the file of that name.
func (h *hubFiles) newUser(name, account, signer string) ([]byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	c := jwt.NewUserClaims(public)
	c.Name, c.IssuerAccount = strings.TrimSuffix(name, filepath.Ext(name)), account
	if name == AccountsCreds {
		c.Permissions.Pub.Allow.Add("$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.LIST", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP")
		c.Permissions.Sub.Allow.Add("_INBOX.>")
	}
	token, err := c.Encode(h.keys[signer])
	if err != nil {
		return nil, fmt.Errorf("sign user %s: %w", c.Name, err)
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return nil, fmt.Errorf("format credentials of %s: %w", c.Name, err)
	}
	return creds, nil
}
