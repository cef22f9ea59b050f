// Package link runs the benchmarks of slow and idle links and prints their figures as tables.
//
// It guarantees that a benchmark that fails is an error, and that a figure that is missing is shown as
// missing. It measures nothing itself: that is BenchmarkLine, BenchmarkSamples and BenchmarkIdle in package
// leaf, and BenchmarkKubeletLine in bridge/bridgetest. Command bench calls it.
package link
