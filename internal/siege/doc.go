// Package siege measures, in tests, what other sites notice while one site does its worst.
//
// Such a test has a short form, which runs with all others and bounds latencies by what a busy
// machine needs, and a long one, `go tool task siege`, which bounds them by what is promised
// (docs/security.md). The variable PETIOLE_SIEGE chooses the long form, and is its duration.
// Nothing outside tests may import it.
package siege
