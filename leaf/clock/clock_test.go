package clock_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/leaf/clock"
	"github.com/petiole-io/petiole/leaf/clock/clocktest"
)

var (
	today = time.Date(2026, time.November, 26, 15, 0, 0, 0, time.UTC)
	begin = time.Unix(12, 0)
)

func open(t testing.TB, dir string, s clock.Source) *clock.Clock {
	t.Helper()
	return clock.Open(clock.Config{DataDir: dir, Source: s, Log: zaptest.NewLogger(t)})
}

// TestSystem reads the clock of the machine that runs the test.
func TestSystem(t *testing.T) {
	s, err := clock.System()
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, t.TempDir(), s)
	if s.Boot == "" || s.Uptime() <= 0 {
		t.Errorf("boot %q, uptime %s", s.Boot, s.Uptime())
	}
	if now, _, _ := c.Now(); time.Since(now).Abs() > time.Minute {
		t.Errorf("it is %s", now)
	}
}

// TestEpochsNeverRepeat boots a machine with whatever its clock says then, and kills its leaf at
// any time.
func TestEpochsNeverRepeat(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir, m, last := t.TempDir(), &clocktest.Machine{}, int64(0)
		for range rapid.IntRange(1, 8).Draw(r, "boots") {
			c := open(t, dir, m.Boot(rapid.SampledFrom([]time.Time{begin, begin, today, today.Add(time.Second), today.AddDate(12, 0, 0), today.AddDate(500, 0, 0)}).Draw(r, "clock")))
			for range rapid.SampledFrom([]int{1, 3, 5000}).Draw(r, "epochs") {
				e := c.NextEpoch()
				if e <= last || e >= 1<<53 {
					r.Fatalf("epoch %d after %d", e, last)
				}
				last = e
			}
		}
	})
}

// TestEpochsOfACopy boots forty times at one time with the same copy of the disk, or an empty one.
func TestEpochsOfACopy(t *testing.T) {
	for _, at := range []time.Time{begin, today} {
		dir, m, seen := t.TempDir(), &clocktest.Machine{}, map[int64]bool{}
		open(t, dir, m.Boot(at)).NextEpoch()
		file := filepath.Join(dir, "clock.json")
		disk, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 40 {
			if err := os.WriteFile(file, disk, 0o600); err != nil {
				t.Fatal(err)
			}
			if n%2 == 0 {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			e := open(t, dir, m.Boot(at)).NextEpoch()
			if seen[e] {
				t.Fatalf("epoch %d again", e)
			}
			seen[e] = true
		}
	}
}

// TestEpochIsTheTimeIfItIsKnown: readers may rely on it as they did before there was a clock.json.
func TestEpochIsTheTimeIfItIsKnown(t *testing.T) {
	m := &clocktest.Machine{}
	m.Boot(begin)
	m.Synchronize(today)
	e := open(t, t.TempDir(), m.Source()).NextEpoch()
	if d := time.UnixMilli(e).Sub(today); d < 0 || d > 2*time.Minute {
		t.Errorf("epoch %d at %d", e, today.UnixMilli())
	}
}

// TestDamagedFile: what cannot be read is ignored, and nothing else.
func TestDamagedFile(t *testing.T) {
	for _, content := range []string{"", "{", `{"epoch":-3}`, `{"epoch":9223372036854775807}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "clock.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if e := open(t, dir, (&clocktest.Machine{}).Boot(begin)).NextEpoch(); e <= 0 || e >= 1<<53 {
			t.Errorf("%q: epoch %d", content, e)
		}
	}
}

// TestStates has the clock confirmed, set and stepped.
func TestStates(t *testing.T) {
	dir, m := t.TempDir(), &clocktest.Machine{}
	c := open(t, dir, m.Boot(begin))
	expect := func(step string, state clock.State, marked bool) {
		t.Helper()
		if is := c.State(); is != state || (c.Mark() != nil) != marked {
			t.Errorf("%s: %s, mark %+v", step, is, c.Mark())
		}
	}
	expect("in 1970", clock.Unset, true)
	if first := c.Mark(); c.Mark() != first {
		t.Error("the mark differs although the clock was not set")
	}
	if _, _, known := c.Now(); known {
		t.Error("the time is known")
	}
	if at := c.CertificateTimes(); len(at) != 1 || at[0].Year() != 2026 {
		t.Errorf("certificates are judged by %s", at)
	}
	m.Set(today)
	expect("set by hand", clock.Unverified, true)
	c.Measured(today, 200*time.Millisecond)
	expect("confirmed by the hub", clock.Right, false)
	m.Step(-time.Hour)
	expect("an hour back", clock.Unset, true) // that time has passed
	if now, most, known := c.Now(); !known || now.Sub(today).Abs() > 10*time.Second || most > time.Second {
		t.Errorf("it is %s ± %s, %v", now, most, known)
	}
	if offset, most, measured := c.Offset(); !measured || (offset-time.Hour).Abs() > 10*time.Second || most < 100*time.Millisecond || most > time.Second {
		t.Errorf("offset %s ± %s, %v", offset, most, measured)
	}
	m.Step(2 * time.Hour)
	expect("an hour ahead", clock.Wrong, true)
	m.Synchronize(today.Add(time.Second))
	expect("NTP", clock.Right, false)

	c = open(t, dir, m.Source())
	expect("another process of the boot", clock.Right, false)
	c = open(t, dir, m.Boot(today.AddDate(0, -1, 0)))
	expect("a boot with the time of a month ago", clock.Unset, true)
	c = open(t, dir, m.Boot(today.AddDate(12, 0, 0)))
	expect("a boot in 2038", clock.Unverified, true)
	c.Measured(today.Add(time.Minute), time.Second)
	expect("in 2038, measured", clock.Wrong, true)
	c = open(t, dir, m.Boot(today.Add(2*time.Minute)))
	expect("a boot with a battery", clock.Unverified, true)
}

// TestSkewed: the sentence about a clock that differs from the hub's has figures, and does not change
// from one heartbeat to the next.
func TestSkewed(t *testing.T) {
	m := &clocktest.Machine{}
	c := open(t, t.TempDir(), m.Boot(today))
	if c.Skewed() != "" || c.Behind() != 0 {
		t.Errorf("nothing is measured: %q, %s behind", c.Skewed(), c.Behind())
	}
	c.Measured(m.Wall().Add(time.Second), 0)
	if c.Skewed() != "" || c.Behind() != 0 {
		t.Errorf("a second: %q, %s behind", c.Skewed(), c.Behind())
	}
	m.Step(-3 * time.Hour)
	want := c.Skewed()
	if !strings.HasPrefix(want, "the clock of the gateway is 3h0m") || !strings.HasSuffix(want, "s behind the hub's, give or take 1s: set it, as with NTP") {
		t.Errorf("three hours back: %q", want)
	}
	m.Pass(10 * time.Minute)
	if got := c.Skewed(); got != want {
		t.Errorf("later: %q", got)
	}
	if d := c.Behind() - 3*time.Hour - time.Second; d.Abs() > 5*time.Second {
		t.Errorf("behind by %s", c.Behind())
	}
	m.Step(6 * time.Hour)
	if got := c.Skewed(); !strings.Contains(got, "ahead of the hub's") {
		t.Errorf("three hours ahead: %q", got)
	}
	// NTP is right, and the hub is not: it is said nevertheless.
	m.Synchronize(today.Add(3 * time.Hour))
	if !strings.Contains(c.Skewed(), "the hub's may be wrong") || c.State() != clock.Right || c.Behind() != 0 {
		t.Errorf("NTP says another time than the hub: %q, %s", c.Skewed(), c.State())
	}
}

// TestBetterMeasurementsCount: a slow line's do not replace them, one of another hub's time does.
func TestBetterMeasurementsCount(t *testing.T) {
	m := &clocktest.Machine{}
	c := open(t, t.TempDir(), m.Boot(begin))
	c.Measured(today, 10*time.Millisecond)
	c.Measured(today.Add(-4*time.Second), 8*time.Second)
	if _, most, _ := c.Offset(); most > time.Second {
		t.Errorf("error %s", most)
	}
	m.Pass(24 * time.Hour)
	if _, most, _ := c.Offset(); most < 8*time.Second || most > 9*time.Second {
		t.Errorf("error %s after a day", most)
	}
	c.Measured(today.Add(time.Hour), time.Second)
	if now, _, _ := c.Now(); now.Sub(today.Add(time.Hour)).Abs() > 10*time.Second {
		t.Errorf("it is %s", now)
	}
}

// record is a record of a device as it is stored.
type record struct {
	Epoch   int64              `json:"epoch"`
	Clock   *devices.ClockMark `json:"clock"`
	Time    int64              `json:"time"`
	Samples []struct {
		Value json.Number `json:"value"`
		Time  int64       `json:"time"`
	} `json:"samples"`
}

func encode(t *testing.T, c *clock.Clock, at time.Time) []byte {
	t.Helper()
	data, err := json.Marshal(&devices.Samples{
		Device: devices.Ref{Name: "pump"}, RecordNumber: devices.RecordNumber{Epoch: 1<<53 - 2, Sequence: 1}, Clock: c.Mark(),
		Samples: []devices.Sample{{Property: "p", Value: devices.Uint(18446744073709551615), Time: at.UnixMilli()}, {Property: "q", Time: at.UnixMilli() + 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func correct(t *testing.T, c *clock.Clock, data []byte) (r record, state string) {
	t.Helper()
	out, state, err := c.Correct(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	if r.Epoch != 1<<53-2 || r.Samples[0].Value != "18446744073709551615" || r.Samples[1].Time != r.Samples[0].Time+1 {
		t.Errorf("%s became %s", data, out)
	}
	return r, state
}

// TestCorrect takes records in a boot in 1970 that is never known, in another one, in which the
// clock is set by hand in between, and after a restart of the leaf. The hub's time comes last.
func TestCorrect(t *testing.T) {
	dir, m := t.TempDir(), &clocktest.Machine{}
	first := encode(t, open(t, dir, m.Boot(begin)), m.Wall())
	c := open(t, dir, m.Boot(begin))
	second := encode(t, c, m.Wall())
	m.Pass(time.Hour)
	m.Set(today.AddDate(0, 0, -3))
	third := encode(t, c, m.Wall())
	c = open(t, dir, m.Source())
	c.Measured(today, 100*time.Millisecond)

	r, state := correct(t, c, first)
	if state != devices.ClockUnset || r.Clock == nil || r.Clock.Boot != "boot-1" || r.Samples[0].Time > 20_000 {
		t.Errorf("of a boot that is never known: %q %+v", state, r)
	}
	for data, at := range map[string]time.Time{string(second): today.Add(-time.Hour), string(third): today} {
		r, state = correct(t, c, []byte(data))
		if d := time.UnixMilli(r.Samples[0].Time).Sub(at).Abs(); d > 10*time.Second || state != devices.ClockCorrected {
			t.Errorf("of this boot: %q, %s from the right time: %+v", state, d, r)
		}
		if r.Clock == nil || r.Clock.Offset == 0 || r.Clock.Error < 50 || r.Clock.Error > 1000 {
			t.Errorf("mark %+v", r.Clock)
		}
	}
	corrected, _, err := c.Correct(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	if again, state, err := c.Correct(t.Context(), corrected); err != nil || state != devices.ClockCorrected || string(again) != string(corrected) {
		t.Errorf("corrected again: %s, %v", again, err)
	}

	c = open(t, dir, m.Boot(today.Add(time.Minute)))
	if r, state = correct(t, c, second); state != devices.ClockCorrected {
		t.Errorf("in a later boot: %q %+v", state, r)
	}
}

// TestCorrectRemovesTheMarkOfRightTimes: the mark of a clock that was right all the time is gone.
func TestCorrectRemovesTheMarkOfRightTimes(t *testing.T) {
	m := &clocktest.Machine{}
	c := open(t, t.TempDir(), m.Boot(today))
	at := m.Wall()
	data := encode(t, c, at)
	if !strings.Contains(string(data), `"unverified"`) {
		t.Fatalf("no mark: %s", data)
	}
	c.Measured(today, time.Second)
	if r, state := correct(t, c, data); state != "" || r.Clock != nil || r.Samples[0].Time != at.UnixMilli() {
		t.Errorf("%q %+v", state, r)
	}
}

// TestCorrectRefusesWhatIsNoRecord returns it as it is.
func TestCorrectRefusesWhatIsNoRecord(t *testing.T) {
	m := &clocktest.Machine{}
	c := open(t, t.TempDir(), m.Boot(begin))
	c.Measured(today, time.Second)
	for _, data := range []string{``, `null`, `[]`, `{}`, `{"clock":7}`, `{"clock":{"state":"unset","boot":"boot-1"},"time":"x"}`, `{"clock":{"state":"unset","boot":"boot-1"},"samples":[7]}`} {
		out, _, err := c.Correct(t.Context(), []byte(data))
		if err == nil || string(out) != data {
			t.Errorf("%s became %s, %v", data, out, err)
		}
	}
}

// TestCertificateTimes has a clock and the hub's time that differ: certificates may be judged by either,
// whichever is wrong.
func TestCertificateTimes(t *testing.T) {
	dir, m := t.TempDir(), &clocktest.Machine{}
	c := open(t, dir, m.Boot(begin))
	expect := func(step string, want ...time.Time) {
		t.Helper()
		times := c.CertificateTimes()
		if len(times) != len(want) {
			t.Fatalf("%s: judged by %s, want %s", step, times, want)
		}
		for i, at := range times {
			if at.Sub(want[i]).Abs() > 10*time.Second {
				t.Errorf("%s: judged by %s, want %s", step, times, want)
			}
		}
	}
	m.Set(today)
	expect("not confirmed", today)
	c.Measured(today, 200*time.Millisecond)
	expect("confirmed", today)
	c.Measured(today.Add(-24*time.Hour), 200*time.Millisecond)
	expect("the hub is a day behind", today, today.Add(-24*time.Hour))
	c = open(t, dir, m.Source())
	expect("after a restart", today, today.Add(-24*time.Hour))
	c.Measured(today.AddDate(1, 0, 0), 200*time.Millisecond)
	expect("the hub is a year ahead", today.AddDate(1, 0, 0), today)
	m.Set(begin)
	expect("the clock is lost", today.AddDate(1, 0, 0))
}
