package fieldbus

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// withSlave runs measure with one slave that is stopped afterwards.
func withSlave(turnaround time.Duration, illegal func(int) bool, measure func(*slave) error) error {
	s, err := startSlave(turnaround, illegal)
	if err != nil {
		return err
	}
	return errors.Join(measure(s), s.stop())
}

// contiguous: a thousand floats in a row from a slave that answers at once; what is
// compared is the collectors' own cost.
func (r *runner) contiguous(ctx context.Context) error {
	return withSlave(0, nil, func(s *slave) error {
		p := plan{Targets: []target{{Address: s.addr, Unit: 1, Timeout: time.Second, Points: contiguous(1000)}}}
		t := r.table("TCP, 1 device × 1,000 contiguous float32, no turn-around, as fast as possible", "\tvalues/s\tCPU per value\tcycle p50\tp99\twrong\terrors\tRSS")
		theirs, err := r.telegraf(ctx, p, 50)
		if err != nil {
			return err
		}
		ours, err := r.petiole(ctx, p)
		if err != nil {
			return err
		}
		rows(t, theirs, ours)
		t.row("ratio\t%.2f×\t%.2f×\t%s\t%s", ours.rate()/theirs.rate(), float64(ours.perValue())/float64(theirs.perValue()),
			goal(ours.rate() >= 300_000, "≥ 300,000 values/s"), goal(ours.perValue() <= theirs.perValue(), "CPU ≤ Telegraf's"))
		return t.end()
	})
}

func rows(t table, theirs, ours result) {
	for _, x := range []struct {
		who string
		result
	}{{"Telegraf", theirs}, {"Petiole", ours}} {
		t.row("%s\t%.0f\t%s\t%s\t%s\t%d\t%d\t%d MiB", x.who, x.rate(), x.perValue().Round(10*time.Nanosecond),
			quantile(x.Cycles, 0.5).Round(10*time.Microsecond), quantile(x.Cycles, 0.99).Round(10*time.Microsecond), x.Wrong, x.Errors, x.RSSKiB/1024)
	}
}

// slow: the same floats from slaves that take their time. One request at a time, both
// are bound by the slave.
func (r *runner) slow(ctx context.Context) error {
	t := r.table("TCP, 1 device × 1,000 contiguous float32, by turn-around of the slave", "\tideal cycle\tTelegraf cycle p50\tPetiole cycle p50\tPetiole / ideal")
	for _, turnaround := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		err := withSlave(turnaround, nil, func(s *slave) error {
			p := plan{Targets: []target{{Address: s.addr, Unit: 1, Timeout: time.Second, Points: contiguous(1000)}}}
			theirs, err := r.telegraf(ctx, p, 50)
			if err != nil {
				return err
			}
			ours, err := r.petiole(ctx, p)
			if err != nil {
				return err
			}
			// 2,000 registers are 16 requests; 62 floats fit into the 125 registers of one.
			ideal := time.Duration((1000+61)/62) * turnaround
			t.row("%s\t%s\t%s\t%s\t%.2f×", turnaround, ideal, quantile(theirs.Cycles, 0.5).Round(100*time.Microsecond),
				quantile(ours.Cycles, 0.5).Round(100*time.Microsecond), float64(quantile(ours.Cycles, 0.5))/float64(ideal))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return t.end()
}

// sparse: 200 integers with gaps, every fifth gap a register that does not exist. A
// collector that reads over such a hole gets an exception for the whole request.
func (r *runner) sparse(ctx context.Context) error {
	at := func(i int) int { return 8 * i }
	illegal := func(a int) bool { return a%40 == 4 }
	return withSlave(2*time.Millisecond, illegal, func(s *slave) error {
		p := plan{Targets: []target{{Address: s.addr, Unit: 1, Timeout: time.Second, Points: integers(200, at)}}}
		t := r.table("TCP, 200 sparse integers, 40 illegal holes, turn-around 2 ms", "\tgood values of 200 a cycle\tcycle p50\trequests a cycle\twrong")
		for _, fill := range []int{0, 50} {
			s.requests.Store(0)
			theirs, err := r.telegraf(ctx, p, fill)
			if err != nil {
				return err
			}
			name := "Telegraf, one request a value"
			if fill > 0 {
				name = "Telegraf, max_insert"
			}
			cycles := int64(max(len(theirs.Cycles), 1))
			t.row("%s\t%.1f\t%s\t%d\t%d", name, float64(theirs.Values)/float64(cycles), quantile(theirs.Cycles, 0.5).Round(100*time.Microsecond), s.requests.Load()/cycles, theirs.Wrong)
		}
		s.requests.Store(0)
		ours, err := r.petiole(ctx, p)
		if err != nil {
			return err
		}
		cycles := int64(max(len(ours.Cycles), 1))
		// The last pass may be cut short by the end of the run.
		perCycle := min(float64(ours.Values)/float64(cycles), 200)
		t.row("Petiole\t%.1f\t%s\t%d\t%d\t%s", perCycle, quantile(ours.Cycles, 0.5).Round(100*time.Microsecond), s.requests.Load()/cycles, ours.Wrong,
			goal(perCycle == 200 && ours.Errors == 0, "all good points every cycle"))
		return t.end()
	})
}

// writes: ten writes a second while the floats are read as fast as possible.
func (r *runner) writes(ctx context.Context) error {
	const turnaround = 2 * time.Millisecond
	return withSlave(turnaround, nil, func(s *slave) error {
		p := plan{Writes: 10, Targets: []target{{Address: s.addr, Unit: 1, Timeout: time.Second, Points: contiguous(1000)}}}
		ours, err := r.petiole(ctx, p)
		if err != nil {
			return err
		}
		t := r.table(fmt.Sprintf("TCP, 10 writes/s during full polling, turn-around %s (Telegraf does not write)", turnaround), "\twrites\tp50\tp99\terrors")
		p99 := quantile(ours.Writes, 0.99)
		// A write is a read before it, the write and the read back: what may be waited for
		// is the one transaction that is on the line already.
		bound := turnaround + 10*time.Millisecond + 3*turnaround
		t.row("Petiole, with read before and back\t%d\t%s\t%s\t%d\t%s", len(ours.Writes), quantile(ours.Writes, 0.5).Round(100*time.Microsecond), p99.Round(100*time.Microsecond), ours.Errors,
			goal(len(ours.Writes) > 0 && p99 <= bound, fmt.Sprintf("p99 ≤ one transaction + 10 ms + its own three = %s", bound)))
		return t.end()
	})
}

// fleet: 500 devices of 30 values, each once a second, on connections of their own.
func (r *runner) fleet(ctx context.Context) (err error) {
	// Not counted are the first reads, which connect, and which all devices make at once: with them, a
	// device is read six times in five seconds. Half a second is between two reads of Telegraf.
	p := plan{Interval: time.Second, Settle: 2500 * time.Millisecond}
	for range 500 {
		s, err := startSlave(0, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		p.Targets = append(p.Targets, target{Address: s.addr, Unit: 1, Timeout: time.Second, Points: integers(30, func(i int) int { return 2 * i })})
	}
	t := r.table("TCP, 500 devices × 30 integers at 1 s", "\tvalues/s of 15,000\tcores\tperiod p99\twrong\terrors\tRSS")
	theirs, err := r.telegraf(ctx, p, 50)
	if err != nil {
		return err
	}
	ours, err := r.petiole(ctx, p)
	if err != nil {
		return err
	}
	t.row("Telegraf\t%.0f\t%.2f\t\t%d\t%d\t%d MiB", theirs.rate(), theirs.cores(), theirs.Wrong, theirs.Errors, theirs.RSSKiB/1024)
	t.row("Petiole, driver\t%.0f\t%.2f\t%s\t%d\t%d\t%d MiB\t%s", ours.rate(), ours.cores(), quantile(ours.Cycles, 0.99).Round(time.Millisecond), ours.Wrong, ours.Errors, ours.RSSKiB/1024,
		goal(ours.cores() <= 1, "within 1 core"))
	return t.end()
}
