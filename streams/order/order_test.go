package order

import (
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b Stamp
		c    int
		ok   bool
	}{
		{Stamp{"1-u", "9"}, Stamp{"1-u", "9"}, 0, true},
		{Stamp{"1-u", "9"}, Stamp{"1-u", "10"}, -1, true},
		{Stamp{"", "9"}, Stamp{"", "8"}, 1, true},
		{Stamp{"1-u", "36893488147419103232"}, Stamp{"1-u", "9"}, 1, true},
		{Stamp{"2-u", "9"}, Stamp{"1-u", "10"}, 0, false},
		{Stamp{"", "9"}, Stamp{"1-u", "10"}, 0, false},
		{Stamp{"1-u", ""}, Stamp{"1-u", "9"}, 0, false},
		{Stamp{"1-u", "9"}, Stamp{"1-u", ""}, 0, false},
		{Stamp{"1-u", ""}, Stamp{"1-u", ""}, 0, false},
		{Stamp{"1-u", "x"}, Stamp{"1-u", "9"}, 0, false},
	} {
		if c, ok := test.a.Compare(test.b); c != test.c || ok != test.ok {
			t.Errorf("%v compared with %v: %d, %v; want %d, %v", test.a, test.b, c, ok, test.c, test.ok)
		}
	}
}

// No two stamps are newer than each other, and newer is transitive.
func TestNewerThanIsAnOrder(t *testing.T) {
	t.Parallel()
	gen := rapid.Custom(func(t *rapid.T) Stamp {
		return Stamp{rapid.SampledFrom([]string{"", "1-u", "2-u"}).Draw(t, "epoch"), rapid.SampledFrom([]string{"", "1", "9", "10", "x"}).Draw(t, "version")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := gen.Draw(t, "a"), gen.Draw(t, "b"), gen.Draw(t, "c")
		if a.NewerThan(b) && b.NewerThan(a) {
			t.Fatalf("%v and %v are newer than each other", a, b)
		}
		if a.NewerThan(b) && b.NewerThan(c) && !a.NewerThan(c) {
			t.Fatalf("%v, %v, %v: not transitive", a, b, c)
		}
	})
}

func TestEpochNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "number")
		if got := EpochNumber(EpochName(n, "4ef6a0b0-5a")); got != n {
			t.Fatalf("number of the name of epoch %d is %d", n, got)
		}
	})
	for _, name := range []string{"", "4ef6a0b0-another-kind", "-1-u", strconv.Itoa(1<<62) + "000-u"} {
		if n := EpochNumber(name); n != 0 {
			t.Errorf("number of %q is %d", name, n)
		}
	}
}
