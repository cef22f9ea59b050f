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
	// identities derives the accounts' public keys, signing the keys that sign their users. The last
	// one of signing signs; the ones before it, which are being replaced, are accepted.
	identities []byte
	signing    [][]byte
	// fabric is the public key of the account FABRIC.
	fabric string
}

// Files are the files that LoadKeys reads.
type Files struct {
	// OperatorKey holds the seed of a signing key of the operator, SiteKey the seeds of account keys
	// that derive the keys of all sites, one a line: the first one the public keys of their accounts,
	// those after it, or the first one if it is the only one, the keys that sign users. The last one
	// signs; users of the others are accepted while gateways receive their new JWT.
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
	seeds, err := readSiteSeeds(f.SiteKey)
	if err != nil {
		return nil, err
	}
	fabric, err := accountOf(f.Bridge)
	if err != nil {
		return nil, err
	}
	return newKeys(operator, seeds, fabric)
}

func newKeys(operator nkeys.KeyPair, siteSeeds []string, fabric string) (*Keys, error) {
	var secrets [][]byte
	for _, seed := range siteSeeds {
		_, raw, err := nkeys.DecodeSeed([]byte(seed))
		if err != nil {
			return nil, fmt.Errorf("read the sites' key: %w", err)
		}
		secrets = append(secrets, raw)
	}
	operatorKey, err := operator.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the operator's key: %w", err)
	}
	signing := secrets[1:]
	if len(signing) == 0 {
		signing = secrets
	}
	return &Keys{operator: operator, operatorKey: operatorKey, identities: secrets[0], signing: signing, fabric: fabric}, nil
}

// Rotating reports whether the sites' key is being replaced: users that the former one has signed are
// accepted, too.
func (k *Keys) Rotating() bool { return len(k.signing) > 1 }

// maxSiteSeeds bounds SiteKeyFile: the accounts' public keys, and the former and the new signing key.
const maxSiteSeeds = 3

// readSiteSeeds returns the seeds in SiteKeyFile, at least one.
func readSiteSeeds(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	const want = "want the seed of an account key, SA…, in each line"
	seeds := strings.Fields(string(data))
	if len(seeds) == 0 || len(seeds) > maxSiteSeeds {
		return nil, fmt.Errorf("%s: %w: it has %d lines; %s, 1 to %d", path, ErrKey, len(seeds), want, maxSiteSeeds)
	}
	for i, seed := range seeds {
		if prefix, _, err := nkeys.DecodeSeed([]byte(seed)); err != nil || prefix != nkeys.PrefixByteAccount {
			return nil, fmt.Errorf("%s, line %d: %w: %s", path, i+1, ErrKey, want)
		}
	}
	return seeds, nil
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
func derive(secret []byte, purpose ...string) (nkeys.KeyPair, string, error) {
	raw, err := hkdf.Key(sha256.New, secret, nil, "petiole "+strings.Join(purpose, "\x00"), 32)
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
	_, public, err := derive(k.identities, "account", site, role)
	return public, err
}

// signer returns the key that signs the JWT of one user. The account lists it as long as the
// user may connect.
func (k *Keys) signer(site, role, user string) (nkeys.KeyPair, string, error) {
	return derive(k.signing[len(k.signing)-1], "signer", site, role, user)
}

// signers returns the public keys that an account lists for one user: that of signer, and while it is
// replaced the former one.
func (k *Keys) signers(site, role, user string) ([]string, error) {
	var all []string
	for _, secret := range k.signing {
		_, public, err := derive(secret, "signer", site, role, user)
		if err != nil {
			return nil, err
		}
		all = append(all, public)
	}
	return all, nil
}
