package streams

import (
	"strings"
	"testing"
)

func TestHubProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		is   HubInfo
		want string
	}{
		"in order":          {HubInfo{MaxPayload: 1 << 20, ServerVersion: "2.15.2"}, ""},
		"a later version":   {HubInfo{MaxPayload: 8 << 20, ServerVersion: "3.0.0-beta.1"}, ""},
		"nothing is known":  {HubInfo{}, ""},
		"too old":           {HubInfo{MaxPayload: 1 << 20, ServerVersion: "2.10.29"}, "nats-server of the hub is version 2.10.29, at least 2.15.0 is needed"},
		"too small":         {HubInfo{MaxPayload: 4096, ServerVersion: "2.15.0"}, "max_payload of the hub is 4096, at least 16384 is needed"},
		"old and too small": {HubInfo{MaxPayload: 4096, ServerVersion: "2.9.0"}, "4096, at least 16384 is needed; nats-server of the hub is version 2.9.0"},
	} {
		if got := strings.Join(c.is.Problems(), "; "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
