package codec

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// errNotATime is the error of registers that hold no date and time.
var errNotATime = errors.New("NotATime")

// timestamp is how registers hold a date and time; zero: none of these.
type timestamp uint8

const (
	// unix32 and unix64 are seconds since 1970, unixMilli milliseconds since 1970, all UTC.
	unix32 timestamp = iota + 1
	unix64
	unixMilli
	// iec870 is a CP56Time2a in four registers, as Schneider's meters have it: year since
	// 2000; month, weekday and day; hour and minute; milliseconds.
	iec870
	// sixRegisters are year, month, day, hour, minute and second, one in each register.
	sixRegisters
	// sixBytes are year since 2000, month, day, hour, minute and second, one in each byte.
	sixBytes
)

// timestamps has the data types of dates and times, with their number of registers.
var timestamps = map[string]struct {
	timestamp timestamp
	registers int
}{
	"unix": {unix32, 2}, "unix32": {unix32, 2}, "unix64": {unix64, 4}, "unixmilli": {unixMilli, 4},
	"iec870": {iec870, 4}, "datetime6": {sixRegisters, 6}, "datetime3": {sixBytes, 3},
}

// The forms of times: of those in UTC, and of the clock of a device, whose zone is unknown.
const (
	formUTC   = "2006-01-02T15:04:05.999Z"
	formClock = "2006-01-02T15:04:05.999"
)

// decode converts registers in big-endian order.
func (t timestamp) decode(b []byte) (devices.Value, error) {
	word := func(i int) int { return int(binary.BigEndian.Uint16(b[2*i:])) }
	switch t {
	case unix32:
		return utcTime(int64(binary.BigEndian.Uint32(b)), 0)
	case unix64:
		return utcTime(int64(binary.BigEndian.Uint64(b)), 0)
	case unixMilli:
		ms := int64(binary.BigEndian.Uint64(b))
		return utcTime(ms/1000, ms%1000)
	case iec870:
		return clockTime(2000+word(0)&0x7f, word(1)>>8&0xf, word(1)&0x1f, word(2)>>8&0x1f, word(2)&0x3f, word(3)/1000, word(3)%1000)
	case sixRegisters:
		return clockTime(word(0), word(1), word(2), word(3), word(4), word(5), 0)
	default:
		return clockTime(2000+int(b[0]), int(b[1]), int(b[2]), int(b[3]), int(b[4]), int(b[5]), 0)
	}
}

// utcTime returns a time in UTC. Zero, which devices have before their clock is set, is none.
func utcTime(seconds, milli int64) (devices.Value, error) {
	at := time.Unix(seconds, milli*int64(time.Millisecond)).UTC()
	if seconds <= 0 || milli < 0 || at.Year() > 9999 {
		return devices.Value{}, errNotATime
	}
	return devices.String(at.Format(formUTC)), nil
}

func clockTime(year, month, day, hour, minute, second, milli int) (devices.Value, error) {
	at := time.Date(year, time.Month(month), day, hour, minute, second, milli*int(time.Millisecond), time.UTC)
	same := at.Year() == year && int(at.Month()) == month && at.Day() == day && at.Hour() == hour && at.Minute() == minute && at.Second() == second
	if !same || year < 1970 || year > 9999 {
		return devices.Value{}, errNotATime
	}
	return devices.String(at.Format(formClock)), nil
}

// isUTC reports whether the registers hold a time in UTC.
func (t timestamp) isUTC() bool { return t == unix32 || t == unix64 || t == unixMilli }

// parse parses RFC 3339, of clocks without a zone, too.
func (t timestamp) parse(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	form := formClock
	if t.isUTC() {
		form = time.RFC3339
	}
	at, err := time.Parse(form, s)
	return at.UTC(), err == nil
}

// same reports whether two texts are the same time.
func (t timestamp) same(a, b string) bool {
	x, okX := t.parse(a)
	y, okY := t.parse(b)
	return okX && okY && x.Equal(y)
}

// encode is the inverse of decode.
func (t timestamp) encode(s string) ([]byte, error) {
	at, ok := t.parse(s)
	if !ok {
		form := formClock
		if t.isUTC() {
			form = time.RFC3339
		}
		return nil, notValid("%q is no time of the form %s", s, form)
	}
	words := func(all ...int) (b []byte) {
		for _, w := range all {
			b = binary.BigEndian.AppendUint16(b, uint16(w))
		}
		return b
	}
	year, month, day, hour, minute, second := at.Year(), int(at.Month()), at.Day(), at.Hour(), at.Minute(), at.Second()
	milli := at.Nanosecond() / int(time.Millisecond)
	weekday := (int(at.Weekday())+6)%7 + 1 // Monday is 1
	if (t == iec870 || t == sixBytes) && (year < 2000 || year > 2127) {
		return nil, notValid("%q is not within the years 2000 to 2127", s)
	}
	switch t {
	case unix32:
		if at.Unix() > 1<<32-1 || at.Unix() < 0 {
			return nil, notValid("%q does not fit 32 bits", s)
		}
		return binary.BigEndian.AppendUint32(nil, uint32(at.Unix())), nil
	case unix64:
		return binary.BigEndian.AppendUint64(nil, uint64(at.Unix())), nil
	case unixMilli:
		return binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())), nil
	case iec870:
		return words(year-2000, month<<8|weekday<<5|day, hour<<8|minute, 1000*second+milli), nil
	case sixRegisters:
		return words(year, month, day, hour, minute, second), nil
	default:
		return words((year-2000)<<8|month, day<<8|hour, minute<<8|second), nil
	}
}
