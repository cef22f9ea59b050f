package host

import (
	"cmp"
	"slices"
	"sort"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/twin"
)

// waitingProperties returns the properties whose desired values wait to be written, in the order
// that their settings give. Of the same order, those that were tried come last.
func waitingProperties(facts *twin.Device) []string {
	var names []string
	for p, c := range facts.Desired {
		if _, waits := c.Waits(); waits || c.Ack == devices.Pending {
			names = append(names, p)
		}
	}
	sort.Strings(names)
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(writeOrder(facts, a), writeOrder(facts, b)), cmp.Compare(facts.Desired[a].Time, facts.Desired[b].Time))
	})
	return names
}

// writeOrder returns the place of a property among those whose values wait.
func writeOrder(facts *twin.Device, property string) int {
	if i := pointOf(facts, property); i >= 0 {
		return facts.Definition.Points[i].Writing.Order
	}
	return 0
}

// waitsForOthers reports whether a value must wait for one of a lower order that was not written
// yet.
func waitsForOthers(facts *twin.Device, property string) bool {
	own := writeOrder(facts, property)
	for p, c := range facts.Desired {
		if c.Ack == devices.Pending && c.Policy != devices.DriftObserve && pointOf(facts, p) >= 0 && writeOrder(facts, p) < own {
			return true
		}
	}
	return false
}

// pointOf returns the index of a property's point, -1 if it has none.
func pointOf(facts *twin.Device, property string) int {
	return slices.IndexFunc(facts.Definition.Points, func(p devices.Point) bool { return p.Name == property })
}
