package traffic

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams/traffic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an account whose connection is set by the test.
type rig struct {
	*Account
	t        *testing.T
	path     string
	meter    *transfer.Meter
	up, down uint64
	known    bool
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "traffic.json"), known: true}
	r.open()
	return r
}

// open starts again from the file.
func (r *rig) open() {
	r.t.Helper()
	r.meter, r.up, r.down = transfer.NewMeter(prometheus.NewRegistry()), 0, 0
	var err error
	r.Account, err = Open(Config{
		Path: r.path, Meter: r.meter, Wire: func() (uint64, uint64, bool) { return r.up, r.down, r.known }, Log: zaptest.NewLogger(r.t),
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// message counts a message of so many bytes, with the protocol of NATS.
func message(bytes int) *nats.Msg { return &nats.Msg{Data: make([]byte, bytes-16)} }

func (r *rig) expect(all bool, want ...traffic.Day) {
	r.t.Helper()
	report := r.Report(all)
	same := len(report.Days) == len(want)
	for i := 0; same && i < len(want); i++ {
		got := report.Days[i]
		same = got.Date == want[i].Date && maps.Equal(got.Up, want[i].Up) && maps.Equal(got.Down, want[i].Down) && got.Estimated == want[i].Estimated
	}
	if !same {
		r.t.Errorf("reported\n%+v, want\n%+v", report.Days, want)
	}
}

type kinds = map[string]uint64

func day(date string, up, down kinds) traffic.Day {
	return traffic.Day{Date: date, Up: up, Down: down}
}

func at(s string) time.Time {
	t, err := time.Parse(time.DateTime, s)
	if err != nil {
		panic(err)
	}
	return t
}

// TestDivide checks that the bytes of the connection are divided without a rest.
func TestDivide(t *testing.T) {
	for name, c := range map[string]struct {
		messages kinds
		wire     uint64
		want     kinds
	}{
		"protocol is the rest":    {kinds{"desired": 100, "reported": 50}, 400, kinds{"desired": 100, "reported": 50, "protocol": 250}},
		"pings alone":             {kinds{"desired": 0}, 80, kinds{"protocol": 80}},
		"compressed":              {kinds{"desired": 3000, "telemetry": 1000}, 400, kinds{"desired": 300, "telemetry": 100}},
		"nothing was carried yet": {kinds{"desired": 100}, 0, kinds{"desired": 0}},
		"nothing":                 {kinds{}, 0, kinds{}},
	} {
		got := divide(c.messages, c.wire)
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	sum := uint64(0)
	for _, n := range divide(kinds{"a": 1 << 50, "b": 3, "c": 1<<50 + 7}, 1<<40+1) {
		sum += n
	}
	if sum != 1<<40+1 {
		t.Errorf("the parts add up to %d, want %d", sum, 1<<40+1)
	}
}

// TestDays counts over midnight and a restart; the file is written at the end alone.
func TestDays(t *testing.T) {
	r := newRig(t)
	r.meter.Up(transfer.KindHeartbeats, message(100))
	r.up = 150
	r.expect(true) // the day is not known yet
	r.SetTime(at("2026-11-26 23:59:30"))
	r.expect(true, day("2026-11-26", kinds{"heartbeats": 100, "protocol": 50}, kinds{}))
	r.meter.Down(transfer.KindDesired, message(500))
	r.down = 900
	r.tick(time.Now().Add(20 * time.Second))
	if _, err := os.Stat(r.path); err == nil {
		t.Error("the file was written within 20 s")
	}
	r.expect(true, day("2026-11-26", kinds{"heartbeats": 100, "protocol": 50}, kinds{"desired": 500, "protocol": 400}))
	r.tick(time.Now().Add(2 * time.Minute)) // midnight has passed
	r.meter.Up(transfer.KindReported, message(60))
	r.up += 60
	r.tick(time.Now().Add(10 * time.Minute))
	yesterday := day("2026-11-26", kinds{"heartbeats": 100, "protocol": 50}, kinds{"desired": 500, "protocol": 400})
	r.open()
	r.expect(true, day("2026-11-27", kinds{"reported": 60}, kinds{}), yesterday)
	r.up = 40 // the gateway does not know the time after its restart, and goes on with that day
	r.expect(false, day("2026-11-27", kinds{"reported": 60, "protocol": 40}, kinds{}), yesterday)
	r.SetTime(at("2026-11-29 12:00:00"))
	r.up = 50
	r.expect(false, day("2026-11-29", kinds{"protocol": 10}, kinds{}), day("2026-11-27", kinds{"reported": 60, "protocol": 40}, kinds{}))
	for d := at("2026-12-01 00:00:00"); d.Before(at("2026-12-20 00:00:00")); d = d.AddDate(0, 0, 1) {
		r.SetTime(d)
	}
	if n := len(r.Report(true).Days); n != traffic.MaxDays {
		t.Errorf("%d days are kept, want %d", n, traffic.MaxDays)
	}
}

// TestReportWhileAMessageArrives has a report sent when the connection has carried a message that is not
// counted yet.
func TestReportWhileAMessageArrives(t *testing.T) {
	r := newRig(t)
	r.SetTime(at("2026-11-26 12:00:00"))
	r.down = 100_000
	r.expect(true, day("2026-11-26", kinds{}, kinds{"protocol": 100_000}))
	r.SetTime(at("2026-11-26 12:00:01"))
	r.meter.Down(transfer.KindDesired, message(99_000))
	r.expect(true, day("2026-11-26", kinds{}, kinds{"desired": 99_000, "protocol": 1000}))
}

// TestBridgesClockWasWrong has a bridge whose clock is years ahead for a while: what was counted then
// belongs to the day on which it is right again.
func TestBridgesClockWasWrong(t *testing.T) {
	r := newRig(t)
	r.SetTime(at("2026-11-26 12:00:00"))
	r.up = 100
	r.SetTime(at("2031-01-01 00:00:00"))
	r.up = 130
	r.expect(true, day("2031-01-01", kinds{"protocol": 30}, kinds{}), day("2026-11-26", kinds{"protocol": 100}, kinds{}))
	r.SetTime(at("2026-11-26 12:10:00"))
	r.expect(true, day("2026-11-26", kinds{"protocol": 130}, kinds{}))
}

// TestConnectionCannotBeRead counts messages where the kernel's count is not known.
func TestConnectionCannotBeRead(t *testing.T) {
	r := newRig(t)
	r.known = false
	r.SetTime(at("2026-11-26 12:00:00"))
	r.meter.Up(transfer.KindTelemetry, message(300))
	want := day("2026-11-26", kinds{"telemetry": 300}, kinds{})
	want.Estimated = true
	r.expect(true, want)
}

// TestUnreadableFile starts without what was counted.
func TestUnreadableFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traffic.json")
	if err := os.WriteFile(path, []byte(`{"days":[{"date":`), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Open(Config{Path: path, Meter: transfer.NewMeter(prometheus.NewRegistry()), Wire: func() (uint64, uint64, bool) { return 0, 0, true }, Log: zaptest.NewLogger(t)})
	if err == nil || a == nil {
		t.Fatalf("account %v, error %v; want both", a, err)
	}
	a.SetTime(at("2026-11-26 12:00:00"))
	if got := a.Report(true); len(got.Days) != 1 {
		t.Errorf("%d days, want 1", len(got.Days))
	}
}

// TestBudget uses up a budget over a restart in the middle of the day, without and with the bridge's
// clock, until the next day begins.
func TestBudget(t *testing.T) {
	r := newRig(t)
	expect := func(want traffic.Level) {
		t.Helper()
		if got := r.Level(); got != want {
			t.Errorf("level %q, want %q", got, want)
		}
	}
	r.SetTime(at("2026-11-26 12:00:00"))
	r.up = 1 << 40
	expect(traffic.Within)
	r.open()
	r.SetTime(at("2026-11-27 12:00:00"))
	r.SetBudget(10_000)
	expect(traffic.Within)
	r.up = 8000
	r.tick(time.Now())
	expect(traffic.SamplesThinned)
	r.meter.Up(transfer.KindReported, message(1100)) // before the connection is read again
	expect(traffic.SamplesWait)
	r.up += 300
	r.tick(time.Now()) // it was compressed
	expect(traffic.SamplesThinned)
	r.open() // without a save at the end: a hundredth of the budget is on disk at least
	expect(traffic.SamplesThinned)
	r.down = 5000
	r.tick(time.Now())
	expect(traffic.ReportsWait)
	r.open()
	expect(traffic.ReportsWait)
	r.SetTime(at("2026-11-27 23:59:00"))
	expect(traffic.ReportsWait)
	r.SetBudget(50_000)
	expect(traffic.Within)
	r.SetBudget(10_000)
	expect(traffic.ReportsWait)
	r.SetTime(at("2026-11-28 00:00:00"))
	expect(traffic.Within)
	r.SetBudget(0)
	r.open()
	r.up = 1 << 40
	r.tick(time.Now())
	expect(traffic.Within)
}
