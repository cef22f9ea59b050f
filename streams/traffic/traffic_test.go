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
