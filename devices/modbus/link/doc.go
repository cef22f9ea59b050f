// Package link shares one connection among the devices behind it. Sessions and pollers of the
// driver submit jobs to a Link.
//
// One goroutine owns a link and runs one job after the other, so that nothing interleaves with
// a read-modify-write; only reads may be in flight together. Commands go before desired
// values, those before polls, polls keep a share, and probes of silent units come last. A
// silent unit is probed at growing intervals, so that it does not slow down the other units,
// and the timeout of a unit follows the latencies that were observed.
package link
