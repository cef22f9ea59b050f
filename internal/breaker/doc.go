// Package breaker tests delivery by fault injection. It runs a world of real parts (package
// world), lets clients change the desired state of the sites and producers at the sites report
// theirs, and meanwhile injects faults that a seed has chosen. All requests and
// observations form a history, which package check judges while it grows.
//
// A run consists of rounds: faults for a while, then everything is healed and the sites
// must converge to exactly their desired state. The plan of faults depends on the
// seed alone; when each hits depends on the machine. `lab breaker` calls it.
package breaker
