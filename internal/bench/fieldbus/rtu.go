package fieldbus

import (
	"context"
	"errors"
	"time"

	"github.com/petiole-io/petiole/devices/modbus/modbustest"
)

// withLine runs measure with a serial line on which units answer at its baud rate.
func withLine(baud int, dead func(byte) bool, measure func(*modbustest.Line) error) error {
	return withSlave(0, nil, func(s *slave) (err error) {
		l, err := modbustest.NewLine(modbustest.LineConfig{Baud: baud, Slave: s.addr, Dead: dead})
		if err != nil {
			return err
		}
		return errors.Join(measure(l), l.Close())
	})
}

// serial: one unit whose 124 registers are read in one block, at the speed of the line.
func (r *runner) serial(ctx context.Context) error {
	const values = 62
	t := r.table("RTU, 62 integers in one block, by baud rate (a character has 11 bits)", "\twire time\tTelegraf cycle p50\tPetiole cycle p50\tTelegraf / wire\tPetiole / wire\twrong")
	for _, baud := range []int{9600, 19200, 38400, 57600, 115200} {
		err := withLine(baud, nil, func(l *modbustest.Line) error {
			p := plan{Targets: []target{{Address: l.Path(), Baud: baud, Unit: 1, Timeout: 2 * time.Second, Points: integers(values, func(i int) int { return 2 * i })}}}
			theirs, err := r.telegraf(ctx, p, 50)
			if err != nil {
				return err
			}
			ours, err := r.petiole(ctx, p)
			if err != nil {
				return err
			}
			ideal := l.Ideal(2 * values)
			share := func(x result) float64 { return 100 * float64(ideal) / float64(quantile(x.Cycles, 0.5)) }
			t.row("%d\t%s\t%s\t%s\t%.0f %%\t%.0f %%\t%d\t%s", baud, ideal.Round(100*time.Microsecond), quantile(theirs.Cycles, 0.5).Round(100*time.Microsecond),
				quantile(ours.Cycles, 0.5).Round(100*time.Microsecond), share(theirs), share(ours), ours.Wrong, goal(share(ours) >= 90, "≥ 90 %"))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return t.end()
}

// bus: 32 units on one line, two of which never answer. Their cost for the others is
// compared.
func (r *runner) bus(ctx context.Context) error {
	const (
		baud   = 19200
		values = 10
	)
	dead := func(unit byte) bool { return unit == 7 || unit == 23 }
	return withLine(baud, dead, func(l *modbustest.Line) error {
		p := plan{}
		for unit := byte(1); unit <= 32; unit++ {
			p.Targets = append(p.Targets, target{Address: l.Path(), Baud: baud, Unit: unit, Timeout: 300 * time.Millisecond, Points: integers(values, func(i int) int { return 2 * i })})
		}
		p.Settle = 30 * time.Second
		long := *r
		long.cfg.Duration = max(r.cfg.Duration, 60*time.Second)
		theirs, err := long.telegraf(ctx, p, 50)
		if err != nil {
			return err
		}
		ours, err := long.petiole(ctx, p)
		if err != nil {
			return err
		}
		ideal := 30 * l.Ideal(2*values)
		t := r.table("RTU at 19,200 baud, 32 units × 10 integers, 2 of them dead; the mean of a minute", "\tideal cycle of the 30\tcycle\tcycle / ideal\twrong")
		row := func(who string, x result, verdict string) {
			cycle := time.Duration(x.Seconds * 30 * values / float64(max(x.Values, 1)) * float64(time.Second))
			ratio := float64(cycle) / float64(ideal)
			t.row("%s\t%s\t%s\t%.2f×\t%d\t%s", who, ideal.Round(time.Millisecond), cycle.Round(time.Millisecond), ratio, x.Wrong, verdict)
		}
		row("Telegraf", theirs, "")
		cycles := ours.Seconds * 30 * values / float64(max(ours.Values, 1))
		row("Petiole", ours, goal(cycles <= 1.1*ideal.Seconds(), "≤ 1.1× the ideal"))
		return t.end()
	})
}
