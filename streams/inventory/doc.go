// Package inventory compares what a site has on disk with what the bridge published for it, by
// digests first, so that equal sets of any size cost one small message.
//
// It has both halves: Compare, which a leaf calls, and Check, with which the bridge answers. It
// guarantees that a comparison ends after three queries, and that Check names exactly the entries
// that differ, never one of another site. It is pure: callers read the entries and send the
// messages.
package inventory
