// Package table follows many streams of one kind, one for each site, that hold one message per
// subject: each is a table whose rows are read again when they have changed.
//
// A Table tells which sites have something new; it does not send content. It hears of each
// message by the headers that the streams republish, through one subscription, and compares with
// a list of the streams after each reconnect and once a minute. The caller reads a site, when its
// turn comes, from the last sequence that it has read on: what was lost of the notifications is
// read with the next one, or when the list shows it.
//
// Guarantees: Changed is called after each message that is stored, a minute later at most, and
// Read returns every message that is still the newest of its subject, in the order of the stream,
// also if the replica that answers lags behind. What a site stores, its headers included, decides
// nothing about other sites. The bridge uses it for the reports.
package table
