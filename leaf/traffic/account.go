package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/durable"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams/traffic"
)

const (
	// readInterval is how often the bytes of the connection are read: those since the last time are
	// lost when it ends.
	readInterval = 10 * time.Second
	// divideInterval is the time whose bytes are divided among kinds together: a message and the
	// bytes that it takes on a slow line are counted at different times.
	divideInterval = time.Minute
	// saveInterval is the time between two writes of the file.
	saveInterval = 5 * time.Minute
	// savedParts is how many times a day the file is written because that part of a budget was used.
	savedParts = 100
)

// Config is what an Account needs.
type Config struct {
	// Path is the file in which the days are kept.
	Path string
	// Meter counts the messages by kind.
	Meter *transfer.Meter
	// Wire returns the bytes of all connections to the hub so far, and false if they cannot be read
	// now.
	Wire func() (up, down uint64, known bool)
	Log  *zap.Logger
}

// Account counts what the link carries on each day. Use Open. It is safe for concurrent use.
type Account struct {
	cfg Config

	mu    sync.Mutex
	clock clock
	// days are the saved ones; the first is the present day.
	days []traffic.Day
	// counted are the totals that are in days; wire and estimated are what was read since.
	counted   map[string]transfer.Bytes
	wire      transfer.Bytes
	wireTotal transfer.Bytes
	// sent are the bytes of all messages when the connection was read last.
	sent    uint64
	budget  int64
	unread  bool
	divided time.Time
	// saved is when the file was written, unsaved whether something has changed since, unsavedBytes by
	// how many bytes.
	saved        time.Time
	unsaved      bool
	unsavedBytes uint64
}

// file is the content of Config.Path.
type file struct {
	Days   []traffic.Day `json:"days"`
	Budget int64         `json:"budget,omitempty"`
}

// Open reads the days that an earlier process has counted. If they cannot be read, it starts without,
// and returns the error as well.
func Open(cfg Config) (*Account, error) {
	a := &Account{cfg: cfg, counted: cfg.Meter.Totals(), sent: sum(cfg.Meter.Totals()), divided: time.Now(), saved: time.Now()}
	up, down, _ := cfg.Wire()
	a.wireTotal = transfer.Bytes{Up: up, Down: down}
	data, err := os.ReadFile(cfg.Path)
	if errors.Is(err, os.ErrNotExist) {
		return a, nil
	}
	var f file
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return a, fmt.Errorf("read what the link carried: %w", err)
	}
	for _, d := range f.Days {
		day := traffic.Day{Date: d.Date, Up: map[string]uint64{}, Down: map[string]uint64{}, Estimated: d.Estimated}
		add(day.Up, d.Up)
		add(day.Down, d.Down)
		a.days = append(a.days, day)
	}
	a.budget = max(f.Budget, 0)
	return a, nil
}

// Run counts until ctx ends, and saves then.
func (a *Account) Run(ctx context.Context) error {
	tick := time.NewTicker(readInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			a.read()
			a.divide(time.Now())
			a.save(time.Now())
			return nil
		case now := <-tick.C:
			a.tick(now)
		}
	}
}

func (a *Account) tick(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.read()
	if now.Sub(a.divided) >= divideInterval {
		a.divide(now)
	}
	if now.Sub(a.saved) >= saveInterval || a.budget > 0 && a.wire.Up+a.wire.Down+a.unsavedBytes >= uint64(a.budget)/savedParts {
		a.divide(now)
		a.save(now)
	}
}

// SetTime takes over the bridge's clock. What was counted so far belongs to the day before that, if it
// is another one.
func (a *Account) SetTime(bridge time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.read()
	a.clock = clock{bridge: bridge, at: now}
	a.turn(now)
}

// SetBudget sets what the link may carry on one day, 0 for any number of bytes. It is on disk when
// SetBudget returns, or the next time that the file is written.
func (a *Account) SetBudget(bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if bytes == a.budget {
		return
	}
	a.cfg.Log.Info("the budget of the link is another one", zap.Int64("bytes_a_day", bytes), zap.Int64("before", a.budget))
	a.budget, a.unsaved = bytes, true
	a.save(time.Now())
}

// Level returns what is not sent at the moment, because of the budget. It is fast, and counts also
// messages that were sent since the connection was read last.
func (a *Account) Level() traffic.Level {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.level()
}

// Budget returns the budget, 0 for any number of bytes, and Level.
func (a *Account) Budget() (bytes int64, level traffic.Level) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.budget, a.level()
}

// level is Level. The lock is held.
func (a *Account) level() traffic.Level {
	if a.budget == 0 || len(a.days) == 0 {
		return traffic.Within
	}
	a.turn(time.Now())
	return traffic.LevelOf(a.days[0].Bytes()+a.wire.Up+a.wire.Down+sum(a.cfg.Meter.Totals())-a.sent, a.budget)
}

// Report returns the days that have changed lately, or all of them; none if the day is not known yet. What
// was read since the last division is in them and is divided again later: a message that is on its way now
// is in the bytes of the connection and not among the messages yet.
func (a *Account) Report(all bool) traffic.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.read()
	a.turn(time.Now())
	n := len(a.days)
	if !all {
		n = min(n, 2)
	}
	out := traffic.Report{Budget: a.budget, Level: a.level()}
	for i, d := range a.days[:n] {
		if i == 0 {
			part, _ := a.undivided()
			d = plus(d, part)
		}
		out.Days = append(out.Days, traffic.Day{Date: d.Date, Up: nonzero(d.Up), Down: nonzero(d.Down), Estimated: d.Estimated})
	}
	return out
}

func nonzero(kinds map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for kind, n := range kinds {
		if n > 0 {
			out[kind] = n
		}
	}
	return out
}

// read adds the bytes of the connection since the last time. The lock is held.
func (a *Account) read() {
	up, down, known := a.cfg.Wire()
	a.wire.Up += up - a.wireTotal.Up
	a.wire.Down += down - a.wireTotal.Down
	a.wireTotal = transfer.Bytes{Up: up, Down: down}
	a.unread = a.unread || !known
	a.sent = sum(a.cfg.Meter.Totals())
}

func sum(kinds map[string]transfer.Bytes) (n uint64) {
	for _, b := range kinds {
		n += b.Up + b.Down
	}
	return n
}

// divide adds what was read since the last time to the present day. The lock is held.
func (a *Account) divide(now time.Time) {
	a.divided = now
	a.turn(now)
	if len(a.days) > 0 { // otherwise the first day is not known yet
		a.commit()
	}
}

// commit adds what was read since the last time to the newest day. The lock is held.
func (a *Account) commit() {
	part, totals := a.undivided()
	a.counted, a.wire, a.unread = totals, transfer.Bytes{}, false
	if part.Bytes() == 0 {
		return
	}
	a.days[0] = plus(a.days[0], part)
	a.unsaved = true
	a.unsavedBytes += part.Bytes()
}

// undivided returns what was read since the last division, by kind, and the totals of the messages that it
// is computed from. The lock is held.
func (a *Account) undivided() (part traffic.Day, totals map[string]transfer.Bytes) {
	up, down := map[string]uint64{}, map[string]uint64{}
	messages := transfer.Bytes{}
	totals = a.cfg.Meter.Totals()
	for kind, n := range totals {
		up[kind], down[kind] = n.Up-a.counted[kind].Up, n.Down-a.counted[kind].Down
		messages.Up, messages.Down = messages.Up+up[kind], messages.Down+down[kind]
	}
	wire := a.wire
	if a.unread && wire == (transfer.Bytes{}) {
		wire, part.Estimated = messages, messages != (transfer.Bytes{})
	}
	part.Up, part.Down = divide(up, wire.Up), divide(down, wire.Down)
	return part, totals
}

// plus returns a day with a part added.
func plus(day, part traffic.Day) traffic.Day {
	sum := traffic.Day{Date: day.Date, Up: map[string]uint64{}, Down: map[string]uint64{}, Estimated: day.Estimated || part.Estimated}
	for _, d := range []traffic.Day{day, part} {
		add(sum.Up, d.Up)
		add(sum.Down, d.Down)
	}
	return sum
}

func add(to, more map[string]uint64) {
	for kind, n := range more {
		to[kind] += n
	}
}

// turn begins a day when it is another one by the bridge's clock; what was read until now belongs to the day
// before. Days that have not come yet by that clock, after it was wrong, are added to the present one. The
// lock is held.
func (a *Account) turn(now time.Time) {
	date := a.clock.date(now)
	if date == "" || len(a.days) > 0 && a.days[0].Date == date {
		return
	}
	if len(a.days) > 0 {
		a.commit()
	}
	today := traffic.Day{Date: date, Up: map[string]uint64{}, Down: map[string]uint64{}}
	for len(a.days) > 0 && a.days[0].Date >= date {
		add(today.Up, a.days[0].Up)
		add(today.Down, a.days[0].Down)
		today.Estimated = today.Estimated || a.days[0].Estimated
		a.days = a.days[1:]
	}
	a.days = append([]traffic.Day{today}, a.days...)
	a.days = a.days[:min(len(a.days), traffic.MaxDays)]
	a.unsaved = true
}

// save writes the file if something has changed. The lock is held.
func (a *Account) save(now time.Time) {
	a.saved = now
	if !a.unsaved {
		return
	}
	data, err := json.Marshal(file{Days: a.days, Budget: a.budget})
	if err == nil {
		err = durable.WriteFile(a.cfg.Path, data, 0o600)
	}
	if err != nil {
		a.cfg.Log.Warn("what the link carried is not saved, it is kept in memory", zap.Error(err))
		return
	}
	a.unsaved, a.unsavedBytes = false, 0
}
