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
	orders := writeOrders(facts)
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(orders[a], orders[b]), cmp.Compare(facts.Desired[a].Time, facts.Desired[b].Time))
	})
	return names
}

// writeOrders returns the place of each property among those whose values wait; nil if no
// property has one.
func writeOrders(facts *twin.Device) map[string]int {
	points := facts.Definition.Points
	if !slices.ContainsFunc(points, func(p devices.Point) bool { return p.Writing.Order != 0 }) {
		return nil
	}
	orders := make(map[string]int, len(points))
	for _, p := range points {
		orders[p.Name] = p.Writing.Order
	}
	return orders
}

// waitsForOthers reports whether a value must wait for one of a lower order that was not written
// yet.
func waitsForOthers(facts *twin.Device, property string) bool {
	orders := writeOrders(facts)
	for p, order := range orders {
		c, ok := facts.Desired[p]
		if ok && c.Ack == devices.Pending && c.Policy != devices.DriftObserve && order < orders[property] {
			return true
		}
	}
	return false
}

// pointOf returns the index of a property's point, -1 if it has none.
func pointOf(facts *twin.Device, property string) int {
	return slices.IndexFunc(facts.Definition.Points, func(p devices.Point) bool { return p.Name == property })
}
