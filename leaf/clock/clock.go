package clock

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

const (
	// tolerance is the difference up to which a clock counts as right.
	tolerance = 2 * time.Second
	// skewTolerance is the difference up to which nobody needs to be told.
	skewTolerance = 10 * time.Second
	// drift is how far the crystal of a cheap board is off, as a part of the time that passes.
	drift = 100e-6
	// jitter is the largest difference between two readings of wall clock and uptime of a clock that
	// was not set meanwhile.
	jitter = 100 * time.Millisecond
	// readTime is how long it takes to read both clocks, readTries how often that is tried.
	readTime, readTries = time.Millisecond, 3
	// lookInterval is the time between two looks at the clock, saveInterval that between two notes
	// of the time on disk.
	lookInterval = 10 * time.Second
	saveInterval = time.Hour
	// measureWait is how long Correct waits in all for the first measurement.
	measureWait = 15 * time.Second
)

// earliest is before every time at which this program can run.
var earliest = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// State is what is known of the wall clock.
type State string

// The states of the wall clock.
const (
	// Right: NTP keeps it right, or it agrees with the hub's.
	Right State = "right"
	// Unset: it says a time that has passed already.
	Unset State = devices.ClockUnset
	// Unverified: nothing has confirmed it since the boot.
	Unverified State = devices.ClockUnverified
	// Wrong: it differs from the hub's.
	Wrong State = devices.ClockWrong
)

// Config configures a Clock. All fields are required.
type Config struct {
	// DataDir is the folder of clock.json.
	DataDir string
	Source  Source
	Log     *zap.Logger
}

// Clock judges the wall clock of a gateway. Use Open. It is safe for concurrent use.
type Clock struct {
	cfg Config
	// known is closed when the time of this boot is known.
	known chan struct{}

	mu     sync.Mutex
	record record
	saved  time.Duration // the uptime of the last save
	// unsaved is the error of the last save, which is logged once.
	unsaved bool
	epoch   int64 // the last one that was used; the block ends at record.Epoch
	mark    *devices.ClockMark
	// hub is the best measurement of the hub's time in this process.
	hub *boot
	// waits is how long Correct may still wait.
	waits    time.Duration
	reported State
}

// Open reads what earlier starts recorded. It writes nothing.
func Open(cfg Config) *Clock {
	c := &Clock{cfg: cfg, known: make(chan struct{}), waits: measureWait, reported: Right}
	c.record = load(cfg.DataDir, cfg.Log)
	c.epoch = c.record.Epoch
	if c.record.find(cfg.Source.Boot) != nil {
		close(c.known)
	}
	return c
}

// reading is what the clocks of the machine say at one time.
type reading struct {
	wall   time.Time
	uptime time.Duration
	// maxError is the largest error of a synchronized clock.
	maxError     time.Duration
	synchronized bool
}

// booted returns the time of the boot according to the wall clock, ms since 1970.
func (r reading) booted() int64 { return r.wall.UnixMilli() - r.uptime.Milliseconds() }

// read reads the clocks. While the clock is synchronized the time of this boot is known.
func (c *Clock) read() reading {
	s := c.cfg.Source
	var r reading
	for range readTries { // the process may be stopped between the two
		before := s.Uptime()
		r.wall, r.uptime = s.Wall(), s.Uptime()
		if r.uptime-before < readTime {
			break
		}
	}
	if r.maxError, r.synchronized = s.Synchronized(); r.synchronized {
		is := boot{ID: s.Boot, Booted: r.booted(), Error: r.maxError.Milliseconds(), At: r.uptime.Milliseconds(), Synchronized: true}
		if was := c.record.find(s.Boot); was == nil || !was.Synchronized || abs(was.Booted-is.Booted) > tolerance.Milliseconds() {
			c.learn(is, r)
		}
	}
	return r
}

// learn records the time of this boot.
func (c *Clock) learn(b boot, r reading) {
	first := c.record.find(b.ID) == nil
	c.record.put(b)
	c.record.Known = b.Booted + r.uptime.Milliseconds()
	c.save(r.uptime)
	if first {
		close(c.known)
	}
}

// Measured takes note of the time of the hub: it was sent within a round trip that has just ended.
func (c *Clock) Measured(hub time.Time, roundTrip time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.read()
	is := boot{
		ID: c.cfg.Source.Boot, Booted: hub.Add(roundTrip/2).UnixMilli() - r.uptime.Milliseconds(),
		Error: roundTrip.Milliseconds()/2 + 1, At: r.uptime.Milliseconds(),
	}
	if was := c.hub; was != nil {
		agree := abs(was.Booted-is.Booted) <= was.errorAt(r.uptime)+is.Error
		if agree && was.errorAt(r.uptime) <= is.Error {
			return // the earlier one is still more precise
		}
	}
	c.hub = &is
	if was := c.record.find(is.ID); !r.synchronized && (was == nil || !was.Synchronized || abs(was.Booted-r.booted()) > tolerance.Milliseconds()) {
		c.learn(is, r)
	}
}

// Now returns the time, its largest error, and whether they are known. Otherwise the time is that of
// the wall clock.
func (c *Clock) Now() (now time.Time, most time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now(c.read())
}

func (c *Clock) now(r reading) (now time.Time, most time.Duration, known bool) {
	if r.synchronized {
		return r.wall, r.maxError, true
	}
	if b := c.record.find(c.cfg.Source.Boot); b != nil {
		return time.UnixMilli(b.Booted + r.uptime.Milliseconds()), time.Duration(b.errorAt(r.uptime)) * time.Millisecond, true
	}
	return r.wall, 0, false
}

// Until returns the time that is left until a time by the right clock. If it is not known it returns
// false, and what is left by the wall clock, or 0 if that is not set.
func (c *Clock) Until(t time.Time) (left time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.read()
	now, _, known := c.now(r)
	if c.state(r) == Unset && !known {
		return 0, false
	}
	return t.Sub(now), known
}

// CertificateTimes returns the times by which certificates may be judged, the likelier one first: that
// of the clock, and the one that is known or has passed, unless they agree or NTP keeps the clock. Either
// may be wrong, the hub's too: a gateway that judges by one alone can lose the hub for good.
func (c *Clock) CertificateTimes() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.read()
	state := c.state(r)
	if state == Right {
		return []time.Time{r.wall}
	}
	other, _, known := c.now(r)
	if floor := c.record.floor(); !known && other.Before(floor) {
		other = floor
	}
	switch {
	case r.wall.Before(earliest):
		return []time.Time{other}
	case other.Equal(r.wall):
		return []time.Time{r.wall}
	case state == Unset:
		return []time.Time{other, r.wall}
	}
	return []time.Time{r.wall, other}
}

// Behind returns how far the wall clock is behind the right one, 0 if that is not known.
func (c *Clock) Behind() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.read()
	if c.state(r) == Right {
		return 0
	}
	now, _, _ := c.now(r)
	return now.Sub(r.wall)
}

// Offset returns how far the hub's clock is ahead of this one, and the largest error of that. It
// returns false if that was not measured.
func (c *Clock) Offset() (offset, most time.Duration, measured bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hub == nil {
		return 0, 0, false
	}
	r := c.read()
	return time.Duration(c.hub.Booted-r.booted()) * time.Millisecond, time.Duration(c.hub.errorAt(r.uptime)) * time.Millisecond, true
}

// State returns what is known of the wall clock.
func (c *Clock) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state(c.read())
}

func (c *Clock) state(r reading) State {
	b := c.record.find(c.cfg.Source.Boot)
	switch {
	case r.synchronized, b != nil && b.agrees(r.booted(), r.uptime):
		return Right
	case r.wall.Before(c.record.floor()):
		return Unset
	case b != nil:
		return Wrong
	}
	return Unverified
}

// Mark returns the mark of records whose times are of the wall clock as it is now, nil if it is
// right. It returns the same mark until the clock is set.
func (c *Clock) Mark() *devices.ClockMark {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.read()
	state := c.state(r)
	if state == Right {
		return nil
	}
	if was := c.mark; was == nil || was.State != string(state) || abs(was.Booted-r.booted()) > jitter.Milliseconds() {
		c.mark = &devices.ClockMark{State: string(state), Boot: c.cfg.Source.Boot, Booted: r.booted()}
	}
	return c.mark
}

// Run logs changes of the state, and notes the time on disk, until ctx ends.
func (c *Clock) Run(ctx context.Context) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		c.look()
		c.note(saveInterval)
		select {
		case <-ctx.Done():
			c.note(0)
			return nil
		case <-tick.C:
		}
	}
}

// note notes the time on disk, if it is known and was not noted for some time.
func (c *Clock) note(after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.read()
	if now, _, known := c.now(r); known && r.uptime-c.saved >= after {
		c.record.Known = now.UnixMilli()
		c.save(r.uptime)
	}
}

func (c *Clock) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.read()
	is := c.state(r)
	if is == c.reported {
		return
	}
	c.reported = is
	says := zap.Time("clock", r.wall)
	switch is {
	case Right:
		c.cfg.Log.Info("the clock is right", says)
	case Unset:
		c.cfg.Log.Warn("the clock is not set: times of samples are marked, and corrected when the time is known; set it, as with NTP", says, zap.Time("at_least", c.record.floor()))
	case Unverified:
		c.cfg.Log.Info("nothing has confirmed the clock since the boot: times of samples are marked until NTP or the hub does", says)
	case Wrong:
		now, most, _ := c.now(r)
		c.cfg.Log.Warn("the clock is wrong: times of samples are corrected with the hub's; set it, as with NTP", says, zap.Duration("behind", now.Sub(r.wall)), zap.Duration("error", most))
	}
}

// Skewed returns a sentence about a clock that differs from the hub's, empty if it does not. It is the
// same for hours.
func (c *Clock) Skewed() string {
	offset, most, measured := c.Offset()
	if !measured || offset.Abs() <= max(skewTolerance, most) {
		return ""
	}
	direction := "behind"
	if offset < 0 {
		direction = "ahead of"
	}
	advice := "set it, as with NTP"
	if c.State() == Right {
		advice = "NTP keeps it, so that the hub's may be wrong"
	}
	return fmt.Sprintf("the clock of the gateway is %s %s the hub's, give or take %s: %s", offset.Abs().Round(time.Second), direction, (most + time.Second).Truncate(time.Second), advice)
}

func abs(n int64) int64 { return max(n, -n) }
