package writeback

import (
	"maps"
	"testing"
)

func TestMirroredDeviceState(t *testing.T) {
	t.Parallel()
	status := func(state, online string) map[string]any {
		m := map[string]any{"state": state}
		if online != "" {
			m["lastOnlineTime"] = online
		}
		return m
	}
	const noon, soon, later = "2026-11-01T12:00:00Z", "2026-11-01T12:00:59Z", "2026-11-01T12:01:00Z"
	for name, c := range map[string]struct {
		current, reported map[string]any
		connected         bool
		want              map[string]any
	}{
		"first":            {nil, status("online", noon), true, status("online", noon)},
		"the same":         {status("online", noon), status("online", noon), true, nil},
		"a little later":   {status("online", noon), status("online", soon), true, nil},
		"much later":       {status("online", noon), status("online", later), true, status("online", later)},
		"another state":    {status("online", noon), status("offline", soon), true, status("offline", soon)},
		"never online":     {nil, status("offline", ""), true, status("offline", "")},
		"site is silent":   {status("online", noon), status("online", noon), false, status("unknown", noon)},
		"still silent":     {status("unknown", noon), status("online", noon), false, nil},
		"site is back":     {status("unknown", noon), status("online", noon), true, status("online", noon)},
		"unreadable times": {status("online", "yesterday"), status("online", "now"), true, nil},
	} {
		if got := mirroredStatus(c.current, c.reported, c.connected); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
