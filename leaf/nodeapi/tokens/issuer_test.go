package tokens

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap/zaptest"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
	"github.com/petiole-io/petiole/streams"
)

// cloud answers with a token that expires at a time.
type cloud time.Time

func (c cloud) RequestWithContext(context.Context, string, []byte) (*nats.Msg, error) {
	data, err := json.Marshal(streams.TokenAnswer{TokenRequest: &authenticationv1.TokenRequest{
		Status: authenticationv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: metav1.NewTime(time.Time(c))},
	}})
	return &nats.Msg{Data: data}, err
}

// TestTokenExpiresByTheClockOfTheKubelet issues a token for an hour on a gateway in 1970, and in 2038.
func TestTokenExpiresByTheClockOfTheKubelet(t *testing.T) {
	now := time.Now()
	for _, wall := range []time.Time{time.Unix(12, 0), now.AddDate(12, 0, 0), now} {
		cache, _, err := identity.OpenTokenCache(t.TempDir(), make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		issuer := New(Config{
			Site: "plant-a", Node: "plant-a-1", Requester: cloud(now.Add(time.Hour)), Cache: cache, Log: zaptest.NewLogger(t),
			Behind: func() time.Duration { return now.Sub(wall) },
		})
		token, err := issuer.Issue(t.Context(), identity.TokenID{PodUID: "u", Namespace: "default", ServiceAccount: "s"}, &authenticationv1.TokenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if left := token.Status.ExpirationTimestamp.Sub(wall); (left - time.Hour).Abs() > 2*time.Second {
			t.Errorf("at %s it expires in %s", wall, left)
		}
	}
}
