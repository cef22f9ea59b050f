package clock

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// Correct returns a record of a device with the right times. The mark of a record tells by which
// clock its times are; if the time of that boot is known by now they are corrected, and if they were
// right the mark is removed. Otherwise the record stays as it is. For the first record of this boot
// it waits some seconds until the time is known. It returns the state of the mark that is left, empty
// if none is.
func (c *Clock) Correct(ctx context.Context, data []byte) (corrected []byte, state string, err error) {
	var fields map[string]json.RawMessage
	var mark devices.ClockMark
	if err := json.Unmarshal(data, &fields); err != nil {
		return data, "", fmt.Errorf("decode record: %w", err)
	}
	if err := json.Unmarshal(fields["clock"], &mark); err != nil {
		return data, "", fmt.Errorf("decode clock of record: %w", err)
	}
	b := timeOf(ctx, c, mark.Boot)
	if b == nil || mark.State == devices.ClockCorrected {
		return data, mark.State, nil
	}
	is := devices.ClockMark{State: devices.ClockCorrected, Boot: mark.Boot, Offset: b.Booted - mark.Booted}
	s := shift{offset: is.Offset, booted: mark.Booted, boot: b}
	if b.agrees(mark.Booted, time.Duration(b.At)*time.Millisecond) {
		s.offset = 0
	}
	if err := s.record(fields); err != nil {
		return data, mark.State, err
	}
	is.Error = s.most
	delete(fields, "clock")
	if s.offset != 0 {
		if fields["clock"], err = json.Marshal(is); err != nil {
			return data, mark.State, fmt.Errorf("encode clock of record: %w", err)
		}
		state = is.State
	}
	if corrected, err = json.Marshal(fields); err != nil {
		return data, mark.State, fmt.Errorf("encode record: %w", err)
	}
	return corrected, state, nil
}

// timeOf returns what is known of a boot, or nil. It waits for the first measurement of this boot.
func timeOf(ctx context.Context, c *Clock, id string) *boot {
	c.mu.Lock()
	c.read()
	known, wait := c.record.find(id), c.waits
	c.mu.Unlock()
	if known == nil && id == c.cfg.Source.Boot && wait > 0 {
		began := time.Now()
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-c.known:
		case <-timer.C:
		}
		c.mu.Lock()
		c.waits -= time.Since(began)
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.record.find(id); b != nil {
		found := *b
		return &found
	}
	return nil
}

// shift adds an offset to times that are by a clock according to which the boot was at booted.
type shift struct {
	offset, booted int64
	boot           *boot
	// most is the largest error of a time so far.
	most int64
}

// record shifts the time of a record and of its samples.
func (s *shift) record(fields map[string]json.RawMessage) error {
	if err := s.time(fields); err != nil {
		return err
	}
	if fields["samples"] == nil {
		return nil
	}
	var samples []map[string]json.RawMessage
	if err := json.Unmarshal(fields["samples"], &samples); err != nil {
		return fmt.Errorf("decode samples: %w", err)
	}
	for _, sample := range samples {
		if err := s.time(sample); err != nil {
			return err
		}
	}
	var err error
	if fields["samples"], err = json.Marshal(samples); err != nil {
		return fmt.Errorf("encode samples: %w", err)
	}
	return nil
}

// time shifts the time among fields, if there is one.
func (s *shift) time(fields map[string]json.RawMessage) error {
	if fields["time"] == nil {
		return nil
	}
	var at int64
	if err := json.Unmarshal(fields["time"], &at); err != nil {
		return fmt.Errorf("decode time: %w", err)
	}
	s.most = max(s.most, s.boot.errorAt(time.Duration(at-s.booted)*time.Millisecond))
	var err error
	fields["time"], err = json.Marshal(at + s.offset)
	return err
}
