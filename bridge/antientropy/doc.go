// Package antientropy repairs sites whose content differs from what was published for them: it
// records the state of each site's comparisons, and carries out full resyncs.
//
// A full resync is requested by an annotation of the Site, or by a site that still differs
// after a repair. The Site controller reads the States; the handler of the sites' inventory
// queries writes them.
// It never changes what is published.
package antientropy
