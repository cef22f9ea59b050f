package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// authority returns a certificate, PEM.
func authority(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// newToken returns a token of plant-a and the key that issued its JWT.
func newToken(t testing.TB, ca []byte) (Token, nkeys.KeyPair) {
	t.Helper()
	key, err := nkeys.CreateUser()
	must(t, err)
	issuer, err := nkeys.CreateAccount()
	must(t, err)
	public, err := key.PublicKey()
	must(t, err)
	c := jwt.NewUserClaims(public)
	c.Name, c.Expires = UserName("plant-a"), time.Now().Add(time.Hour).Unix()
	user, err := c.Encode(issuer)
	must(t, err)
	token, err := NewToken("plant-a", key, user, ca)
	must(t, err)
	return token, issuer
}

func newGateway(t testing.TB) nkeys.KeyPair {
	t.Helper()
	key, err := nkeys.CreateUser()
	must(t, err)
	return key
}

func publicOf(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	public, err := key.PublicKey()
	must(t, err)
	return public
}

// TestTokenIsReadWholeOrNotAtAll: no part of a token is one, neither with an authority nor
// without, and no error repeats the secret.
func TestTokenIsReadWholeOrNotAtAll(t *testing.T) {
	one, two := authority(t), authority(t)
	for name, ca := range map[string][]byte{"authority": one, "two authorities": append(one, two...), "system": nil} {
		token, _ := newToken(t, ca)
		text := token.String()
		seed := strings.Split(text, ".")[1]
		got, err := ParseToken(" " + text[:100] + "\n" + text[100:] + "\r\n") // as terminals break it
		must(t, err)
		if got.String() != text || string(got.AuthoritiesPEM()) != string(ca) {
			t.Errorf("%s: another token is read: %s", name, got)
		}
		for n := range len(text) {
			if _, err := ParseToken(text[:n]); err == nil {
				t.Fatalf("%s: %d of %d characters are a token", name, n, len(text))
			} else if !errors.Is(err, ErrToken) || strings.Contains(err.Error(), seed) {
				t.Fatalf("%s: %d characters: %v", name, n, err)
			}
		}
	}
}

// TestTokenBelongsToItsSite: the parts of two tokens are none.
func TestTokenBelongsToItsSite(t *testing.T) {
	a, _ := newToken(t, nil)
	b, _ := newToken(t, nil)
	a.Site = "plant-b"
	if _, err := ParseToken(a.String()); !errors.Is(err, ErrToken) {
		t.Errorf("the token of another site: %v", err)
	}
	a.Site, a.JWT = "plant-a", b.JWT
	if _, err := ParseToken(a.String()); !errors.Is(err, ErrToken) {
		t.Errorf("the JWT of another token: %v", err)
	}
}

// TestRequest: only the holder of both keys can make one.
func TestRequest(t *testing.T) {
	token, _ := newToken(t, nil)
	gateway := newGateway(t)
	data, err := Request{Node: "n"}.Encode(token, gateway)
	must(t, err)
	r, err := ParseRequest(data)
	must(t, err)
	must(t, r.Verify())
	if r.Site != "plant-a" || r.Token != token.Public() || r.Gateway != publicOf(t, gateway) || r.Node != "n" {
		t.Errorf("%+v is read", r.Request)
	}
	if len(data) > MaxRequest {
		t.Errorf("a request has %d bytes, more than MaxRequest", len(data))
	}
	var sent signedRequest
	must(t, json.Unmarshal(data, &sent))
	other := newGateway(t)
	for name, change := range map[string]func(*signedRequest, *Request){
		"another gateway": func(_ *signedRequest, r *Request) { r.Gateway = publicOf(t, other) },
		"another token":   func(_ *signedRequest, r *Request) { r.Token = publicOf(t, other) },
		"another site":    func(_ *signedRequest, r *Request) { r.Site = "plant-b" },
		"another node":    func(_ *signedRequest, r *Request) { r.Node = "m" },
		"no key":          func(_ *signedRequest, r *Request) { r.Gateway = "U" },
		"no signature":    func(s *signedRequest, _ *Request) { s.GatewaySignature = nil },
		"exchanged":       func(s *signedRequest, _ *Request) { s.GatewaySignature = s.TokenSignature },
		"another signature": func(s *signedRequest, _ *Request) {
			s.TokenSignature, _ = other.Sign(append([]byte(requestContext), s.Body...))
		},
		"without context": func(s *signedRequest, _ *Request) { s.GatewaySignature, _ = gateway.Sign(s.Body) },
	} {
		s, q := sent, r.Request
		change(&s, &q)
		if q.Gateway != r.Gateway || q.Token != r.Token || q.Site != r.Site || q.Node != r.Node {
			s.Body, err = json.Marshal(q)
			must(t, err)
		}
		changed, err := json.Marshal(s)
		must(t, err)
		got, err := ParseRequest(changed)
		if err == nil {
			err = got.Verify()
		}
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
}

// TestAnswer: an answer is that of the bridge, to this request, for this gateway, or none.
func TestAnswer(t *testing.T) {
	token, issuer := newToken(t, nil)
	gateway := newGateway(t)
	public := publicOf(t, gateway)
	ask := func() ([]byte, Received) {
		data, err := Request{}.Encode(token, gateway)
		must(t, err)
		r, err := ParseRequest(data)
		must(t, err)
		return data, r
	}
	encode := func(a Answer, r Received, key nkeys.KeyPair) []byte {
		s, err := a.Sign(r, key)
		must(t, err)
		data, err := json.Marshal(s)
		must(t, err)
		return data
	}
	jwtFor := func(key string) string {
		user, err := jwt.NewUserClaims(key).Encode(issuer)
		must(t, err)
		return user
	}
	request, received := ask()
	good := Answer{Code: Accepted, JWT: jwtFor(public), Node: "n"}
	got, err := ParseAnswer(encode(good, received, issuer), request, token, public)
	if err != nil || got != good {
		t.Errorf("%+v, %v is read", got, err)
	}
	if got, err := ParseAnswer(encode(Answer{Code: Used}, received, issuer), request, token, public); err != nil || got.Code != Used {
		t.Errorf("%+v, %v is read", got, err)
	}
	unsigned, err := json.Marshal(Unsigned("busy"))
	must(t, err)
	if got, err := ParseAnswer(unsigned, request, token, public); err != nil || got.Code != Unavailable || got.Message != "busy" {
		t.Errorf("%+v, %v is read", got, err)
	}
	_, other := ask()
	forger, err := nkeys.CreateAccount()
	must(t, err)
	body, err := json.Marshal(Answer{Code: Used})
	must(t, err)
	forged, err := json.Marshal(SignedAnswer{Body: body})
	must(t, err)
	for name, data := range map[string][]byte{
		"to another request": encode(good, other, issuer),
		"by somebody else":   encode(good, received, forger),
		"unsigned":           forged,
		"for another key":    encode(Answer{Code: Accepted, JWT: jwtFor(token.Public())}, received, issuer),
		"no JWT":             encode(Answer{Code: Accepted}, received, issuer),
		"no answer":          []byte("{"),
	} {
		if got, err := ParseAnswer(data, request, token, public); err == nil {
			t.Errorf("%s: %+v is accepted", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	token, _ := newToken(f, authority(f))
	request, err := Request{}.Encode(token, newGateway(f))
	must(f, err)
	f.Add(token.String())
	f.Add(string(request))
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := ParseToken(text); err == nil {
			if _, err := ParseToken(got.String()); err != nil {
				t.Errorf("a token is not read again: %v", err)
			}
		}
		if r, err := ParseRequest([]byte(text)); err == nil {
			_ = r.Verify() // does not panic
		}
		_, _ = ParseAnswer([]byte(text), request, token, token.Public()) // the same
	})
}
