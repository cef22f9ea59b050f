// Package reports turns what a mapper reports about a device into batches of readings for the
// device's worker: values, states, and that nothing is reported any longer.
//
// Reports are delivered in the order in which they came. They are not rate-limited; a report is
// refused if the device's queue is full, so that memory is bounded and nothing is lost silently.
// Package dmi calls it, and watches the reports of a point to see a write take effect.
package reports
