// Package bounds holds what one site may take of what all sites share, and remembers what was
// refused to a site, for the conditions of its Site.
//
// A site beyond a bound does not slow down another one: the decision needs no I/O. It does not
// write to the API; bridge/writeback asks it before it does, and bridge/site shows the problems.
package bounds
