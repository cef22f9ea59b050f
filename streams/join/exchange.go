package join

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Verb is the verb of the request, the last token of its subject.
const Verb = "join"

// MaxRequest bounds a request, in bytes.
const MaxRequest = 4 << 10

// What signatures are made over, before the body: a signature of one kind is none of another.
const (
	requestContext = "petiole join request\x00"
	answerContext  = "petiole join answer\x00"
)

var (
	// ErrSignature reports a message that was not signed by the key that it names.
	ErrSignature = errors.New("the signature is not valid")
	// ErrFormat reports a message that cannot be read.
	ErrFormat = errors.New("not readable")
)

// Request is what a gateway asks for.
type Request struct {
	Site string `json:"site"`
	// Token and Gateway are the public keys of the token and of the gateway.
	Token   string `json:"token"`
	Gateway string `json:"gateway"`
	// Nonce makes two requests differ.
	Nonce []byte `json:"nonce"`
	// Node is the name that the node should have; empty: the one that the Site says, or else
	// Host.
	Node string `json:"node,omitempty"`
	// Host is the gateway's host name.
	Host string `json:"host,omitempty"`
	// Version is that of the leaf.
	Version string `json:"version,omitempty"`
}

// signedRequest is a Request with the signatures of both keys.
type signedRequest struct {
	Body             []byte `json:"body"`
	TokenSignature   []byte `json:"tokenSignature"`
	GatewaySignature []byte `json:"gatewaySignature"`
}

// Encode completes a request with the keys, the site and a nonce, and signs it.
func (r Request) Encode(token Token, gateway nkeys.KeyPair) ([]byte, error) {
	var err error
	if r.Gateway, err = gateway.PublicKey(); err != nil {
		return nil, fmt.Errorf("read the gateway's key: %w", err)
	}
	r.Site, r.Token, r.Nonce = token.Site, token.Public(), make([]byte, 16)
	if _, err := rand.Read(r.Nonce); err != nil {
		return nil, fmt.Errorf("create nonce: %w", err)
	}
	var s signedRequest
	if s.Body, err = json.Marshal(r); err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	message := append([]byte(requestContext), s.Body...)
	if s.TokenSignature, err = token.Sign(message); err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	if s.GatewaySignature, err = gateway.Sign(message); err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	return json.Marshal(s)
}

// Received is a request whose signatures have not been verified yet.
type Received struct {
	Request
	signed signedRequest
	digest []byte
}

// ParseRequest reads a request without verifying it.
func ParseRequest(data []byte) (Received, error) {
	r := Received{digest: digest(data)}
	if err := json.Unmarshal(data, &r.signed); err != nil {
		return r, fmt.Errorf("request: %w: %w", ErrFormat, err)
	}
	if err := json.Unmarshal(r.signed.Body, &r.Request); err != nil {
		return r, fmt.Errorf("request: %w: %w", ErrFormat, err)
	}
	return r, nil
}

// Verify returns an error unless the holders of both keys have signed the request.
func (r Received) Verify() error {
	message := append([]byte(requestContext), r.signed.Body...)
	if err := verify(r.Token, message, r.signed.TokenSignature); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if err := verify(r.Gateway, message, r.signed.GatewaySignature); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	return nil
}

func verify(key string, message, signature []byte) error {
	if !nkeys.IsValidPublicKey(key) {
		return fmt.Errorf("%w: %q is not a key", ErrSignature, key)
	}
	pair, err := nkeys.FromPublicKey(key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if err := pair.Verify(message, signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}

// Code says how the bridge has decided.
type Code string

// The codes.
const (
	// Accepted: the Site lists the gateway.
	Accepted Code = "Accepted"
	// Used: another gateway has joined with the token.
	Used Code = "Used"
	// Expired: the token has ended.
	Expired Code = "Expired"
	// Withdrawn: the Site has another token, or none.
	Withdrawn Code = "Withdrawn"
	// Revoked: the gateway has joined and is no longer listed.
	Revoked Code = "Revoked"
	// TooManyGateways: the Site lists as many as it can.
	TooManyGateways Code = "TooManyGateways"
	// NodeNotAllowed: the Site cannot have the node.
	NodeNotAllowed Code = "NodeNotAllowed"
	// Invalid: the request is not valid.
	Invalid Code = "Invalid"
	// Unavailable: the bridge cannot decide now; the same request may succeed later. It is the
	// only code of an answer that is not signed.
	Unavailable Code = "Unavailable"
)

// Answer is the bridge's decision.
type Answer struct {
	Code Code `json:"code"`
	// Message is why the code is not Accepted, and what to do.
	Message string `json:"message,omitempty"`
	// JWT is what the gateway presents to the hub from now on.
	JWT string `json:"jwt,omitempty"`
	// Authorities is the PEM file that the hub's certificate is verified with; empty: the
	// authorities that the system knows.
	Authorities string `json:"authorities,omitempty"`
	// Node is the name of the gateway's node.
	Node string `json:"node,omitempty"`
}

// SignedAnswer is an Answer as it is sent.
type SignedAnswer struct {
	Body      []byte `json:"body"`
	Signature []byte `json:"signature,omitempty"`
}

// Sign returns the answer to a request, signed by the key that issued the token's JWT.
func (a Answer) Sign(r Received, issuer nkeys.KeyPair) (SignedAnswer, error) {
	body, err := json.Marshal(a)
	if err != nil {
		return SignedAnswer{}, fmt.Errorf("encode answer: %w", err)
	}
	signature, err := issuer.Sign(answerMessage(r.digest, body))
	if err != nil {
		return SignedAnswer{}, fmt.Errorf("sign answer: %w", err)
	}
	return SignedAnswer{body, signature}, nil
}

// Unsigned returns an answer with the code Unavailable.
func Unsigned(message string) SignedAnswer {
	body, err := json.Marshal(Answer{Code: Unavailable, Message: message})
	if err != nil {
		return SignedAnswer{} // two strings can be encoded
	}
	return SignedAnswer{Body: body}
}

// ParseAnswer reads the answer to a request that was sent with a token for a gateway, and verifies
// that it is one.
func ParseAnswer(data, request []byte, token Token, gateway string) (Answer, error) {
	var s SignedAnswer
	var a Answer
	if err := json.Unmarshal(data, &s); err != nil {
		return a, fmt.Errorf("answer: %w: %w", ErrFormat, err)
	}
	if err := json.Unmarshal(s.Body, &a); err != nil {
		return a, fmt.Errorf("answer: %w: %w", ErrFormat, err)
	}
	if len(s.Signature) == 0 && a.Code == Unavailable {
		return a, nil
	}
	if err := verify(token.Issuer(), answerMessage(digest(request), s.Body), s.Signature); err != nil {
		return Answer{}, fmt.Errorf("answer: %w", err)
	}
	if a.Code != Accepted {
		return a, nil
	}
	user, err := jwt.DecodeUserClaims(a.JWT)
	if err != nil {
		return Answer{}, fmt.Errorf("answer: its JWT: %w", err)
	}
	if user.Subject != gateway {
		return Answer{}, fmt.Errorf("answer: %w: its JWT is that of %s, and this gateway is %s", ErrFormat, user.Subject, gateway)
	}
	return a, nil
}

func digest(request []byte) []byte {
	sum := sha256.Sum256(request)
	return sum[:]
}

// answerMessage returns what the signature of an answer is made over.
func answerMessage(request, body []byte) []byte {
	message := append([]byte(answerContext), request...)
	return append(message, body...)
}
