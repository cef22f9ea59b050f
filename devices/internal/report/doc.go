// Package report passes what one device reports to the sink of its host: samples, audits and
// events in order, of which samples may be dropped when the sink fails for long; and the
// newest status, at most one in each interval.
package report
