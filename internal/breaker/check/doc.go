// Package check holds the invariants of delivery as state machines over a history of
// events: what was asked of the API server, what each site, the hub and the API server
// were seen to hold, and which faults were injected.
//
// A checker gets every event in the order of the history and reports at once which events
// violate an invariant; Finish reports what is missing at the end. Nothing here does I/O,
// reads a clock or is safe for concurrent use, so that a history that was kept is judged
// again with the same result. The comment of each checker explains its invariants (I1, I2,
// …); docs/delivery.md has the promises behind them.
package check
