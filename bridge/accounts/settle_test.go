package accounts

import (
	"testing"

	"github.com/nats-io/jwt/v2"
)

// TestNext follows the claims of an account from what the hub has to what it shall have.
func TestNext(t *testing.T) {
	account := func(users ...string) *jwt.AccountClaims {
		c := jwt.NewAccountClaims("A")
		c.Issuer = "O"
		c.Tags.Add(siteTag + "plant-a")
		c.SigningKeys.Add(users...)
		return c
	}
	foreign := account("new")
	foreign.Issuer = "former"
	want := account("new")
	for name, c := range map[string]struct {
		have, store    *jwt.AccountClaims
		settled, again bool
	}{
		"no account":                {nil, want, false, false},
		"the same":                  {want, nil, false, false},
		"signed by a former key":    {foreign, want, false, false},
		"another":                   {account("old"), settling(want), false, true},
		"another, long known":       {account("old"), settling(want), true, true},
		"another that is settling":  {settling(account("old")), settling(want), true, true},
		"settling, just stored":     {settling(want), nil, false, true},
		"settling for long enough":  {settling(want), want, true, false},
		"settling by a former key":  {settling(foreign), want, true, false},
		"without users":             {withoutUsers(want), settling(want), false, true},
		"without users, was marked": {withoutUsers(settling(want)), settling(want), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			store, again := next(c.have, want, "O", c.settled)
			if again != c.again || (store == nil) != (c.store == nil) || store != nil && !Same(store, c.store) {
				t.Errorf("store %+v, again %t, want %+v, %t", store, again, c.store, c.again)
			}
		})
	}
	if Same(want, settling(want)) || len(want.Tags) != 1 {
		t.Error("claims with the mark are the same as those without")
	}
	if empty := withoutUsers(settling(want)); len(empty.SigningKeys) != 0 || len(empty.Tags) != 1 || len(want.SigningKeys) != 1 {
		t.Errorf("without users: %+v", empty)
	}
}
