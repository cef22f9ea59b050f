// Package breaker tries to break delivery. It runs a world of real parts (package
// world), lets clients change what the sites shall hold and producers at the sites say
// what is true there, and meanwhile injects faults that a seed has chosen. All that is
// asked and all that is seen is a history, which package check judges while it grows.
//
// A run consists of rounds: faults for a while, then everything is healed and the sites
// must come to hold exactly what the API server wants. The plan of faults depends on the
// seed alone; when each hits depends on the machine. `lab breaker` calls it.
package breaker
