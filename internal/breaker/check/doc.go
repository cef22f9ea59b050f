// Package check holds the invariants of delivery as state machines over a history of
// events: what was asked of the API server, what each site, the hub and the API server
// were seen to hold, and what was broken.
//
// A checker is told every event in the order of the history and says at once what
// violates an invariant; Finish says what is missing at the end. Nothing here does I/O,
// reads a clock or is safe for concurrent use, so that a history that was kept is judged
// again with the same result. The numbers of the invariants (I1, I2, …) are explained in
// docs/delivery.md.
package check
