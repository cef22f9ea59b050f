package devices

import (
	"slices"
	"strings"
)

// Review finds the settings that nobody looks up, most likely misspelt ones. It can review one group
// of settings after another, which reuses its memory.
type Review struct {
	s Settings
	// names are the names that were looked up, as the documentation spells them.
	names []string
}

// Start returns a Reader of settings. What was looked up before is forgotten.
func (v *Review) Start(s Settings) *Reader {
	v.s, v.names = s, v.names[:0]
	return &Reader{s: s, review: v}
}

func (v *Review) lookedUp(names []string) { v.names = append(v.names, names...) }

// Unread returns the keys that were not looked up, sorted.
func (v *Review) Unread() []string {
	var keys []string
	for k := range v.s {
		if !slices.ContainsFunc(v.names, func(name string) bool { return strings.EqualFold(name, k) }) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// Known returns the names that were looked up so far, as the documentation spells them.
func (v *Review) Known() []string {
	slices.Sort(v.names)
	v.names = slices.Compact(v.names)
	return v.names
}

// Nearest returns the name of a setting that was looked up and is most like key, empty if
// none is like it.
func (v *Review) Nearest(key string) string {
	best, least := "", max(2, len(key)/3)+1
	for _, name := range v.Known() {
		if d := distance(strings.ToLower(key), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or replace to get b from a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// Spelling returns a key of the settings of a property, or with an empty property of the
// protocol, as the manifest spells it.
func (d Definition) Spelling(property, key string) string {
	for _, layer := range d.layers(property) {
		for k := range layer {
			if strings.EqualFold(k, key) {
				return k
			}
		}
	}
	return key
}

// layers returns the settings that were merged, those of the device first.
func (d Definition) layers(property string) (all []map[string]any) {
	if d.Object == nil || d.Model == nil {
		return nil
	}
	if property == "" {
		return append(all, data(d.Object.Spec.Protocol.ConfigData), data(d.Model.Spec.ProtocolConfigData))
	}
	for _, p := range d.Object.Spec.Properties {
		if p.Name == property && p.Visitors != nil {
			all = append(all, data(p.Visitors.ConfigData))
		}
	}
	for _, p := range d.Model.Spec.Properties {
		if p.Name == property && p.Visitors != nil {
			all = append(all, data(p.Visitors.ConfigData))
		}
	}
	return all
}
