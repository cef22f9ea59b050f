package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// Holder is the pod that a token was issued to.
type Holder struct {
	// TokenID is the request; its audiences are empty if it had none.
	TokenID
	// GrantedAudiences are those of the token.
	GrantedAudiences []string
	// Expires is when the token itself expires, which is later than the kubelet is told.
	Expires time.Time
}

// Holder returns the pod that a token was issued to, false if the cache does not know the token:
// tokens are recognized, not verified, since every token of a pod of this node was requested here.
// So the keys of the cluster are not needed, and a token that was issued elsewhere is unknown.
func (c *TokenCache) Holder(token string) (Holder, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.holders[sha256.Sum256([]byte(token))]
	return h, ok
}

func replaced(t *authenticationv1.TokenRequest) replacedToken {
	return replacedToken{
		Digest: sha256.Sum256([]byte(t.Status.Token)), Audiences: t.Spec.Audiences, Expires: expiry(t),
	}
}

// expiry returns when a token expires. The API server issues tokens of about a year where a kubelet
// requests an hour, and says an hour in its answer; the token has the right time.
func expiry(t *authenticationv1.TokenRequest) time.Time {
	if parts := strings.Split(t.Status.Token, "."); len(parts) == 3 {
		claims, err := base64.RawURLEncoding.DecodeString(parts[1])
		var c struct {
			Expires int64 `json:"exp"`
		}
		if err == nil && json.Unmarshal(claims, &c) == nil && c.Expires > 0 {
			return time.Unix(c.Expires, 0)
		}
	}
	return t.Status.ExpirationTimestamp.Time
}
