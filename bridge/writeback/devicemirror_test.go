package writeback

import (
	"maps"
	"testing"
)

func TestMirroredDeviceState(t *testing.T) {
	t.Parallel()
	reported := func(state, online string) map[string]any {
		m := map[string]any{"state": state}
		if online != "" {
			m["lastOnlineTime"] = online
		}
		return m
	}
	status := func(state, online, shown string) map[string]any {
		m := reported(state, online)
		if shown != "" {
			m["lastOnline"] = shown
		}
		return m
	}
	const noon, soon, later = "2026-11-01T12:00:00Z", "2026-11-01T12:00:59Z", "2026-11-01T12:01:00Z"
	for name, c := range map[string]struct {
		current, reported map[string]any
		connected         bool
		want              map[string]any
	}{
		"first":            {nil, reported("online", noon), true, status("online", noon, "now")},
		"earlier version":  {reported("online", noon), reported("online", noon), true, status("online", noon, "now")},
		"the same":         {status("online", noon, "now"), reported("online", noon), true, nil},
		"a little later":   {status("online", noon, "now"), reported("online", soon), true, nil},
		"much later":       {status("online", noon, "now"), reported("online", later), true, status("online", later, "now")},
		"degraded":         {status("online", noon, "now"), reported("degraded", soon), true, status("degraded", soon, "now")},
		"another state":    {status("online", noon, "now"), reported("offline", soon), true, status("offline", soon, soon)},
		"still offline":    {status("offline", noon, noon), reported("offline", noon), true, nil},
		"never online":     {nil, reported("offline", ""), true, reported("offline", "")},
		"still never":      {reported("offline", ""), reported("offline", ""), true, nil},
		"site is silent":   {status("online", noon, "now"), reported("online", noon), false, status("unknown", noon, noon)},
		"still silent":     {status("unknown", noon, noon), reported("online", noon), false, nil},
		"site is back":     {status("unknown", noon, noon), reported("online", noon), true, status("online", noon, "now")},
		"unreadable times": {status("online", "yesterday", "now"), reported("online", "now"), true, nil},
	} {
		if got := mirroredStatus(c.current, c.reported, c.connected); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
