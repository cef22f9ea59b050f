package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
)

// Settings are the free-form settings of a protocol or of a visitor. Keys are in lower case:
// existing manifests use any case, and write numbers and booleans as strings, so both are
// accepted.
type Settings map[string]any

// Merge merges layers of settings. A later layer overrides an earlier one, whatever the case
// of their keys.
func Merge(layers ...map[string]any) Settings {
	s := Settings{}
	for _, l := range layers {
		keys := make([]string, 0, len(l))
		for k := range l {
			keys = append(keys, k)
		}
		sort.Strings(keys) // of a key given in two cases always the same one wins
		for _, k := range keys {
			s[strings.ToLower(k)] = l[k]
		}
	}
	return s
}

// Reader reads settings and collects errors, so that all invalid settings are reported at
// once. A setting has a name and aliases; the first one present is used.
type Reader struct {
	s    Settings
	errs []error
	// review takes note of what is looked up, unless it is nil.
	review *Review
}

// Read returns a Reader of the settings.
func (s Settings) Read() *Reader { return &Reader{s: s} }

// Err joins all errors; nil if there are none.
func (r *Reader) Err() error { return errors.Join(r.errs...) }

// Has reports whether one of the names is set.
func (r *Reader) Has(names ...string) bool {
	_, _, ok := r.lookup(names)
	return ok
}

// Text reads a string; numbers and booleans are used as they are written.
func (r *Reader) Text(def string, names ...string) string {
	v, name, ok := r.lookup(names)
	if !ok {
		return def
	}
	s, ok := scalar(v)
	if !ok {
		r.fail(name, v, "is not a string")
		return def
	}
	return s
}

// List reads a list, or a text whose items are separated by commas. Items are scalars, read as
// Text reads them. It returns nil if the setting is absent.
func (r *Reader) List(names ...string) []string {
	v, name, ok := r.lookup(names)
	if !ok {
		return nil
	}
	items, isList := v.([]any)
	if !isList {
		s, ok := scalar(v)
		if !ok {
			r.fail(name, v, "is not a list")
			return nil
		}
		for part := range strings.SplitSeq(s, ",") {
			items = append(items, part)
		}
	}
	if len(items) == 0 {
		r.fail(name, v, "is empty")
		return nil
	}
	list := make([]string, 0, len(items))
	for _, item := range items {
		s, ok := scalar(item)
		if !ok || s == "" {
			r.fail(name, v, "is not a list of texts or numbers")
			return nil
		}
		list = append(list, s)
	}
	return list
}

// Names reads a map from numbers to names, such as {0: off, 1: on}, or the text "0=off, 1=on".
// It returns nil if the setting is absent. No two names are equal, whatever their case.
func (r *Reader) Names(names ...string) map[int64]string {
	v, name, ok := r.lookup(names)
	if !ok {
		return nil
	}
	pairs, isMap := v.(map[string]any)
	if !isMap {
		pairs = map[string]any{}
		for _, part := range r.List(name) {
			number, text, found := strings.Cut(part, "=")
			number = strings.TrimSpace(number)
			if _, twice := pairs[number]; !found || twice {
				r.fail(name, v, "is not of the form 0=off, 1=on")
				return nil
			}
			pairs[number] = text
		}
	}
	out, used := make(map[int64]string, len(pairs)), map[string]bool{}
	for number, value := range pairs {
		n, err := parseInt(strings.TrimSpace(number))
		text, ok := scalar(value)
		_, isBool := value.(bool)
		switch {
		case isBool:
			r.fail(name, value, `is a boolean in YAML: write the name in quotes, as in {0: "off", 1: "on"}`)
		case err != nil:
			r.fail(name, number, "is not an integer")
		case !ok || text == "" || strings.Contains(text, ","):
			r.fail(name, value, "is not a name, which has no comma and is not empty")
		case used[strings.ToLower(text)] || out[n] != "":
			r.fail(name, value, "appears twice")
		}
		out[n], used[strings.ToLower(text)] = text, true
	}
	return out
}

// Int reads an integer within [min, max], decimal or 0x….
func (r *Reader) Int(def, min, max int64, names ...string) int64 {
	v, name, ok := r.lookup(names)
	if !ok {
		return def
	}
	s, _ := scalar(v)
	i, err := parseInt(s)
	switch {
	case err != nil:
		r.fail(name, v, "is not an integer")
	case i < min || i > max:
		r.fail(name, v, fmt.Sprintf("is not within %d and %d", min, max))
	default:
		return i
	}
	return def
}

// Float reads a finite number.
func (r *Reader) Float(def float64, names ...string) float64 {
	v, name, ok := r.lookup(names)
	if !ok {
		return def
	}
	s, _ := scalar(v)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		r.fail(name, v, "is not a number")
		return def
	}
	return f
}

// Bool reads true/false, yes/no, on/off, 1/0 in any case.
func (r *Reader) Bool(def bool, names ...string) bool {
	v, name, ok := r.lookup(names)
	if !ok {
		return def
	}
	s, _ := scalar(v)
	b, ok := ParseBool(s)
	if !ok {
		r.fail(name, v, "is not true or false")
		return def
	}
	return b
}

// Choice reads one of a few words, case-insensitively. It returns it in lower case.
func (r *Reader) Choice(def string, choices []string, names ...string) string {
	v, name, ok := r.lookup(names)
	if !ok {
		return def
	}
	s, _ := scalar(v)
	s = strings.ToLower(strings.TrimSpace(s))
	for _, c := range choices {
		if s == c {
			return s
		}
	}
	r.fail(name, v, "is none of "+strings.Join(choices, ", "))
	return def
}

// Join takes over the errors of another Reader.
func (r *Reader) Join(other *Reader) { r.errs = append(r.errs, other.errs...) }

// Fail adds an error about a setting.
func (r *Reader) Fail(name, what string) {
	r.errs = append(r.errs, fmt.Errorf("%s %s", name, what))
}

func (r *Reader) fail(name string, v any, what string) {
	r.errs = append(r.errs, fmt.Errorf("%s %q %s", name, fmt.Sprint(v), what))
}

func (r *Reader) lookup(names []string) (value any, name string, ok bool) {
	if r.review != nil {
		r.review.lookedUp(names)
	}
	var room [32]byte // a gateway looks up some hundred thousand names when it starts
	for _, n := range names {
		k := room[:0]
		for i := range len(n) {
			k = append(k, lower(n[i]))
		}
		v, found := r.s[string(k)]
		if found && !ok && v != nil {
			if s, isText := v.(string); isText && strings.TrimSpace(s) == "" {
				continue // an empty string means not set
			}
			value, name, ok = v, n, true
		}
	}
	return value, name, ok
}

// lower returns an ASCII letter in lower case.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// ParseBool parses a boolean in the forms that manifests use.
func ParseBool(s string) (value, ok bool) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true", "1", "on", "yes":
		return true, true
	case "false", "0", "off", "no":
		return false, true
	default:
		return false, false
	}
}

func scalar(v any) (string, bool) {
	switch t := v.(type) {
	case string:
		return strings.TrimSpace(t), true
	case json.Number:
		return t.String(), true
	case bool:
		return strconv.FormatBool(t), true
	case float64:
		return strconv.FormatFloat(t, 'g', -1, 64), true
	case float32:
		return strconv.FormatFloat(float64(t), 'g', -1, 32), true
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(t), true
	default:
		return "", false
	}
}

func parseInt(s string) (int64, error) {
	if h, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		return strconv.ParseInt(h, 16, 64)
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if err == nil {
		return i, nil
	}
	// 2.0 and 1e3 are integers written by a tool that has only floats.
	f, ferr := strconv.ParseFloat(s, 64)
	if ferr != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, err
	}
	return int64(f), nil
}
