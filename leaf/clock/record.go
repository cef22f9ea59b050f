package clock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/durable"
)

const (
	fileName = "clock.json"
	// maxBoots bounds the boots whose time is remembered. A record of an older one stays as it is.
	maxBoots = 256
	// epochBlock is the number of epochs that one write reserves.
	epochBlock = 4096
	// maxEpoch is the largest integer that readers of JSON keep exactly.
	maxEpoch = 1<<53 - 1
	// latest is the end of the times that a clock can say without being obviously wrong.
	latest = 4102444800000 // 2100-01-01, ms since 1970
	// The random parts of epochs keep them apart where nothing else does: without a clock.json, and
	// with copies of one. They are sparse unless the time is known, since the clock may say the same
	// at each boot, and fresh if there is no number to begin with.
	sparse, fresh, dense = 1 << 32, 1 << 40, 1 << 16
)

// record is the content of clock.json.
type record struct {
	// Epoch is the end of the block of epochs that was reserved last.
	Epoch int64 `json:"epoch"`
	// Known is a time that has passed, ms since 1970.
	Known int64 `json:"known,omitempty"`
	// Boots are the boots whose time is known, oldest first.
	Boots []boot `json:"boots,omitempty"`
}

// boot is what is known of the time of a boot.
type boot struct {
	ID string `json:"id"`
	// Booted is the time of the boot, ms since 1970, and Error its largest error when it was
	// determined, At ms after the boot.
	Booted int64 `json:"booted"`
	Error  int64 `json:"error"`
	At     int64 `json:"at"`
	// Synchronized reports that it is from a synchronized clock, and not from the hub.
	Synchronized bool `json:"synchronized,omitempty"`
}

// errorAt returns the largest error in ms of a time that is calculated from the uptime.
func (b *boot) errorAt(uptime time.Duration) int64 {
	return b.Error + int64(drift*float64(abs(uptime.Milliseconds()-b.At)))
}

// agrees reports whether a clock according to which the boot was at a time is right.
func (b *boot) agrees(booted int64, uptime time.Duration) bool {
	return abs(booted-b.Booted) <= max(tolerance.Milliseconds(), b.errorAt(uptime))
}

// load reads clock.json. What cannot be read counts as lost.
func load(dir string, log *zap.Logger) (r record) {
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil && (r.Epoch < 0 || r.Epoch > maxEpoch) {
		err = fmt.Errorf("epoch: %d: must be between 0 and %d", r.Epoch, int64(maxEpoch))
	}
	if err != nil {
		log.Error("what is known of the clock is unreadable and is ignored", zap.String("file", fileName), zap.Error(err))
		return record{}
	}
	return r
}

// save writes clock.json. Without it the numbers of epochs still differ by their random parts.
func (c *Clock) save(uptime time.Duration) {
	data, err := json.Marshal(c.record)
	if err == nil {
		err = durable.WriteFile(filepath.Join(c.cfg.DataDir, fileName), data, 0o600)
	}
	c.saved = uptime
	if err != nil && !c.unsaved {
		c.cfg.Log.Error("what is known of the clock is not saved", zap.Error(err))
	}
	c.unsaved = err != nil
}

// find returns what is known of a boot, or nil.
func (r *record) find(id string) *boot {
	for i := len(r.Boots) - 1; i >= 0; i-- {
		if r.Boots[i].ID == id {
			return &r.Boots[i]
		}
	}
	return nil
}

func (r *record) put(b boot) {
	if was := r.find(b.ID); was != nil {
		*was = b
		return
	}
	r.Boots = append(r.Boots, b)
	r.Boots = slices.Delete(r.Boots, 0, max(len(r.Boots)-maxBoots, 0))
}

// floor returns a time that has passed.
func (r *record) floor() time.Time {
	if known := time.UnixMilli(r.Known); known.After(earliest) {
		return known
	}
	return earliest
}

// NextEpoch returns the number of a new epoch. It is larger than all before, also in earlier
// boots, unless clock.json was lost. It is close to the time in ms since 1970 if NTP keeps the clock
// right.
func (c *Clock) NextEpoch() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch >= c.record.Epoch {
		c.reserve()
	}
	c.epoch++
	return c.epoch
}

// reserve reserves a block of epochs on disk before the first one is used.
func (c *Clock) reserve() {
	r := c.read()
	now, _, known := c.now(r)
	at := int64(0) // unless it is a time that can be
	if !now.Before(c.record.floor()) && now.UnixMilli() < latest {
		at = now.UnixMilli()
	}
	switch least := max(c.record.Epoch, at); {
	case known, least > maxEpoch/2:
		c.epoch = least + rand.Int64N(dense)
	case least > 0:
		c.epoch = least + rand.Int64N(sparse)
	default:
		c.epoch = rand.Int64N(fresh)
	}
	c.record.Epoch = c.epoch + epochBlock
	c.save(r.uptime)
}
