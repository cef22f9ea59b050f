package streams

import "testing"

func FuzzParseHubPosition(f *testing.F) {
	f.Add("17 abc")
	f.Add("18446744073709551615 ")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseHubPosition(s)
		if err != nil {
			return
		}
		if again, err := ParseHubPosition(at.String()); err != nil || again != at {
			t.Fatalf("%q is read as %+v and then as %+v, %v", s, at, again, err)
		}
	})
}
