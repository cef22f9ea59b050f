package clock

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Source is the clock of a machine.
type Source struct {
	// Wall returns what the wall clock says.
	Wall func() time.Time
	// Uptime returns the time since the boot. It never steps.
	Uptime func() time.Duration
	// Boot identifies the boot.
	Boot string
	// Synchronized returns the largest error of the wall clock, and whether it is kept right, as by
	// NTP.
	Synchronized func() (time.Duration, bool)
}

// System returns the clock of this machine.
func System() (Source, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Source{}, fmt.Errorf("read the id of this boot: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, new(unix.Timespec)); err != nil {
		return Source{}, fmt.Errorf("read the time since the boot: %w", err)
	}
	return Source{Wall: time.Now, Uptime: uptime, Boot: strings.TrimSpace(string(boot)), Synchronized: synchronized}, nil
}

func uptime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // System has tried it: it fails always or never
	return time.Duration(t.Nano())
}

// synchronized asks the kernel, which NTP daemons tell that they keep the clock right, and which
// no longer believes it when they have been silent for long.
func synchronized() (time.Duration, bool) {
	var t unix.Timex
	if state, err := unix.Adjtimex(&t); err != nil || state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return 0, false
	}
	return time.Duration(t.Maxerror) * time.Microsecond, true
}
