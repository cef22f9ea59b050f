// Package antientropy repairs sites whose content differs from what was published for them: it
// answers the comparisons of their inventories, records the state of each, and carries out full
// resyncs.
//
// A full resync is requested by an annotation of the Site, or by a site that still differs
// after a repair. The Site controller reads the States.
// It never changes what is published: desired does so, which it asks to publish again.
package antientropy
