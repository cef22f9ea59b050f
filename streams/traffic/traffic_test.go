package traffic

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestReportIsBounded has reports that no leaf sends.
func TestReportIsBounded(t *testing.T) {
	days := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf(`{"date":"2026-11-%02d"}`, 30-i))
		}
		return out
	}
	kinds := map[string]int{}
	for i := range MaxKinds + 1 {
		kinds[strings.Repeat("k", i+1)] = 1
	}
	many, err := json.Marshal(kinds)
	if err != nil {
		t.Fatal(err)
	}
	for report, want := range map[string]string{
		`{"days":[` + strings.Join(days(MaxDays), ",") + `]}`:                      "",
		`{"days":[` + strings.Join(days(MaxDays+1), ",") + `]}`:                    "9 days, the limit is 8",
		`{"level":"Sometimes"}`:                                                    `unknown level "Sometimes"`,
		`{"budget":-1}`:                                                            "a budget of -1 bytes",
		`{"days":[{"date":"yesterday"}]}`:                                          `a day "yesterday"`,
		`{"days":[{"date":"2026-11-25"},{"date":"2026-11-26"}]}`:                   "the newest day first",
		`{"days":[{"date":"2026-11-26","up":` + string(many) + `}]}`:               "17 kinds, the limit is 16",
		`{"days":[{"date":"2026-11-26","up":{"a b":1}}]}`:                          `a kind "a b"`,
		`{"days":[{"date":"2026-11-26","down":{"desired":-1}}]}`:                   "decode report",
		`{"days":[{"date":"2026-11-26","down":{"desired":18446744073709551615}}]}`: "",
		`{"days":[{"date":"2026-11-26","estimated":true}]}`:                        "",
	} {
		r, err := Decode([]byte(report))
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", report, got, want)
		}
		if want == "" && int64(r.Days[0].Bytes()) < 0 {
			t.Errorf("%s: the sum is too large", report)
		}
	}
}

// TestLevels checks what each part of a budget holds back.
func TestLevels(t *testing.T) {
	for used, want := range map[uint64]Level{0: Within, 749: Within, 750: SamplesThinned, 899: SamplesThinned, 900: SamplesWait, 999: SamplesWait, 1000: ReportsWait, 1 << 60: ReportsWait} {
		if got := LevelOf(used, 1000); got != want {
			t.Errorf("%d of 1000: %q, want %q", used, got, want)
		}
		if got := LevelOf(used, 0); got != Within {
			t.Errorf("%d without a budget: %q", used, got)
		}
	}
}
