package natsd

import (
	"context"
	"net/url"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestSessionsLeaveEachOtherAlone: a gateway that joins loses neither its connection nor the
// bridge's answer because another one asks with the same token. nats-server replaces a connection
// of the same server name.
func TestSessionsLeaveEachOtherAlone(t *testing.T) {
	t.Parallel()
	hub := natstest.StartOperatorHub(t)
	gateways := [2]natstest.User{natstest.NewUser(t), natstest.NewUser(t)}
	hub.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{gateways[0].Public, gateways[1].Public}})
	ctx, cancel := context.WithTimeout(t.Context(), polltest.Limit)
	defer cancel()
	dial := func(u natstest.User) *Session {
		t.Helper()
		key, err := nkeys.FromSeed([]byte(u.Seed))
		must(t, err)
		token, err := hub.Keys.GatewayToken("plant-a", u.Public, "")
		must(t, err)
		s, err := DialHub(ctx, HubConfig{
			URL: &url.URL{Scheme: "nats-leaf", Host: hub.LeafAddr()}, Site: "plant-a", Gateway: u.Public, JWT: token, Sign: key.Sign,
		})
		must(t, err)
		return s
	}
	first := dial(gateways[0])
	defer first.Close()
	id := hubConnection(t, first)
	second := dial(gateways[1])
	if got := hubConnection(t, first); got != id {
		t.Errorf("connection %d of the first gateway, had %d", got, id)
	}
	second.Close()

	// The first gateway again, whose connection the hub ends for it.
	again := dial(gateways[0])
	defer again.Close()
	polltest.Eventually(t, "the former connection ends", func() bool { return hubConnection(t, first) != id })
}

// hubConnection returns the number of a session's connection to the hub, 0 if there is none.
func hubConnection(t *testing.T, s *Session) uint64 {
	t.Helper()
	z, err := s.server.Leafz(nil)
	must(t, err)
	if len(z.Leafs) == 0 {
		return 0
	}
	return z.Leafs[0].ID
}
