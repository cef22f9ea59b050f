package accounts

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// ErrKey reports a file that does not contain a key or a credential of the wanted kind.
var ErrKey = errors.New("not the wanted key")

// Keys holds what is needed to make the accounts of sites. Create it with LoadKeys.
type Keys struct {
	// operator is a signing key of the operator.
	operator nkeys.KeyPair
	// operatorKey is its public key.
	operatorKey string
	// secret derives the accounts' identities and signing keys.
	secret []byte
	// fabric is the public key of the account FABRIC.
	fabric string
}

// Files are the files that LoadKeys reads.
type Files struct {
	// OperatorKey holds the seed of a signing key of the operator, SiteKey that of an account
	// key which derives the keys of all sites.
	OperatorKey, SiteKey string
	// Bridge holds the credentials of the bridge's own user, whose account is FABRIC.
	Bridge string
}

// LoadKeys reads the keys. The error names the file.
func LoadKeys(f Files) (*Keys, error) {
	operator, err := readSeed(f.OperatorKey, nkeys.PrefixByteOperator, "an operator's signing key, SO…")
	if err != nil {
		return nil, err
	}
	site, err := readSeed(f.SiteKey, nkeys.PrefixByteAccount, "an account key, SA…")
	if err != nil {
		return nil, err
	}
	fabric, err := accountOf(f.Bridge)
	if err != nil {
		return nil, err
	}
	return newKeys(operator, site, fabric)
}

func newKeys(operator, site nkeys.KeyPair, fabric string) (*Keys, error) {
	seed, err := site.Seed()
	if err != nil {
		return nil, fmt.Errorf("read the sites' key: %w", err)
	}
	_, raw, err := nkeys.DecodeSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("read the sites' key: %w", err)
	}
	operatorKey, err := operator.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the operator's key: %w", err)
	}
	return &Keys{operator: operator, operatorKey: operatorKey, secret: raw, fabric: fabric}, nil
}

func readSeed(path string, kind nkeys.PrefixByte, want string) (nkeys.KeyPair, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	seed := []byte(strings.TrimSpace(string(data)))
	if prefix, _, err := nkeys.DecodeSeed(seed); err != nil || prefix != kind {
		return nil, fmt.Errorf("%s: %w: want the seed of %s", path, ErrKey, want)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrKey, err)
	}
	return pair, nil
}

// accountOf returns the account of the user in a credentials file.
func accountOf(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read credentials: %w", err)
	}
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", path, ErrKey, err)
	}
	user, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", path, ErrKey, err)
	}
	if user.IssuerAccount != "" {
		return user.IssuerAccount, nil
	}
	return user.Issuer, nil
}

// derive returns the account key for a purpose. Without the secret it cannot be computed.
func (k *Keys) derive(purpose ...string) (nkeys.KeyPair, string, error) {
	raw, err := hkdf.Key(sha256.New, k.secret, nil, "petiole "+strings.Join(purpose, "\x00"), 32)
	if err != nil {
		return nil, "", fmt.Errorf("derive key: %w", err)
	}
	pair, err := nkeys.FromRawSeed(nkeys.PrefixByteAccount, raw)
	if err != nil {
		return nil, "", fmt.Errorf("derive key: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, "", fmt.Errorf("derive key: %w", err)
	}
	return pair, public, nil
}

// The roles that users have at the hub.
const (
	roleGateway  = "gateway"
	roleOperator = "operator"
	roleJoin     = "join"
)

// roles are all roles: a site has at most one account for each.
var roles = []string{roleGateway, roleOperator, roleJoin}

// identity returns the public key of a site's account for a role.
func (k *Keys) identity(site, role string) (string, error) {
	_, public, err := k.derive("account", site, role)
	return public, err
}

// signer returns the key that signs the JWT of one user. The account lists it as long as the
// user may connect.
func (k *Keys) signer(site, role, user string) (nkeys.KeyPair, string, error) {
	return k.derive("signer", site, role, user)
}
