package join

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// ErrToken reports a text that is not a token, or not all of one.
var ErrToken = errors.New("not a join token")

// systemAuthorities stands in a token for the authorities that the gateway's system knows.
const systemAuthorities = "system"

// tokenParts is the number of parts of a token: the site, the seed, the three of the JWT, the
// authorities, and a checksum that finds a token which was not copied in full.
const tokenParts = 7

// UserName returns the name that the JWT of a token of a site has.
func UserName(site string) string { return "join of " + site }

// Token lets one gateway join a site. Its String is a secret.
type Token struct {
	Site string
	// JWT is what the hub accepts together with the key.
	JWT string
	// Authorities are the certificates that the hub's must be signed by; none: those that the
	// gateway's system knows.
	Authorities []*x509.Certificate

	key    nkeys.KeyPair
	claims *jwt.UserClaims
}

// NewToken returns a token. authorities is PEM, and may be empty.
func NewToken(site string, key nkeys.KeyPair, userJWT string, authorities []byte) (Token, error) {
	t := Token{Site: site, JWT: userJWT, key: key}
	var err error
	if t.Authorities, err = ParseAuthorities(authorities); err != nil {
		return Token{}, err
	}
	return t, t.check()
}

// ParseAuthorities returns the certificates of a PEM file.
func ParseAuthorities(data []byte) (all []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("certificate authority: a block is %s, want CERTIFICATE only", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
		all = append(all, c)
	}
	if rest := bytes.TrimSpace(data); len(rest) > 0 {
		return nil, errors.New("certificate authority: not PEM")
	}
	return all, nil
}

// String returns the token as ParseToken reads it. Every character can be part of a URL or of a
// word of a shell.
func (t Token) String() string {
	seed, err := t.key.Seed()
	if err != nil {
		return "" // a key pair that check has accepted has a seed
	}
	authorities := systemAuthorities
	if len(t.Authorities) > 0 {
		var der []byte
		for _, c := range t.Authorities {
			der = append(der, c.Raw...)
		}
		authorities = base64.RawURLEncoding.EncodeToString(der)
	}
	text := strings.Join([]string{t.Site, string(seed), t.JWT, authorities}, ".")
	return text + "." + checksum(text)
}

func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// ParseToken reads a token. The error never contains it.
func ParseToken(s string) (Token, error) {
	s = strings.Join(strings.Fields(s), "")
	parts := strings.Split(s, ".")
	last := strings.LastIndexByte(s, '.')
	if len(parts) != tokenParts || s[last+1:] != checksum(s[:last]) {
		return Token{}, fmt.Errorf("%w: it is damaged or cut off: copy all of what 'kubectl petiole site create' has printed", ErrToken)
	}
	key, err := nkeys.FromSeed([]byte(parts[1]))
	if err != nil {
		return Token{}, fmt.Errorf("%w: its second part is not a key: %w", ErrToken, err)
	}
	t := Token{Site: parts[0], JWT: strings.Join(parts[2:5], "."), key: key}
	if parts[5] != systemAuthorities {
		der, err := base64.RawURLEncoding.DecodeString(parts[5])
		if err != nil {
			return Token{}, fmt.Errorf("%w: its certificate authority: %w", ErrToken, err)
		}
		if t.Authorities, err = x509.ParseCertificates(der); err != nil || len(t.Authorities) == 0 {
			return Token{}, fmt.Errorf("%w: its certificate authority is not readable: %w", ErrToken, err)
		}
	}
	return t, t.check()
}

// check verifies that the parts belong together.
func (t *Token) check() error {
	seed, err := t.key.Seed()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrToken, err)
	}
	if kind, _, err := nkeys.DecodeSeed(seed); err != nil || kind != nkeys.PrefixByteUser {
		return fmt.Errorf("%w: its key is not that of a user", ErrToken)
	}
	if t.claims, err = jwt.DecodeUserClaims(t.JWT); err != nil {
		return fmt.Errorf("%w: its JWT: %w", ErrToken, err)
	}
	if t.claims.Subject != t.Public() {
		return fmt.Errorf("%w: its JWT is that of another key", ErrToken)
	}
	if t.claims.Name != UserName(t.Site) {
		return fmt.Errorf("%w: it begins with the site %q, and its JWT is named %q", ErrToken, t.Site, t.claims.Name)
	}
	return nil
}

// Public returns the public key of the token, which identifies it.
func (t Token) Public() string {
	public, err := t.key.PublicKey()
	if err != nil {
		return "" // a key pair that was read from a seed has a public key
	}
	return public
}

// Sign signs data with the key of the token.
func (t Token) Sign(data []byte) ([]byte, error) { return t.key.Sign(data) }

// Issued and Expires return when the token was made and when it ends, by the bridge's clock.
func (t Token) Issued() time.Time { return time.Unix(t.claims.IssuedAt, 0) }

// Expires returns when the token ends.
func (t Token) Expires() time.Time { return time.Unix(t.claims.Expires, 0) }

// Issuer returns the public key that signs the answers.
func (t Token) Issuer() string { return t.claims.Issuer }

// AuthoritiesPEM returns the authorities as a file, empty if there are none.
func (t Token) AuthoritiesPEM() []byte {
	var out []byte
	for _, c := range t.Authorities {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
