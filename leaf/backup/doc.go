// Package backup writes what a gateway cannot get again to one file, and restores it on a machine
// in its place: configuration, keys, tokens, and the streams of the site with the records and
// reports that the hub does not have.
//
// It guarantees that a backup is whole or refused, that Create runs beside no leaf, and that Restore
// changes nothing on a machine that has a leaf, and can be repeated when it was interrupted.
// The hub decides what of a restored stream it lacks: a leaf that starts with an older store begins
// an incarnation of its own (leaf/journal), so no record is sent twice and no id is used twice.
// Desired state of a restored store is shown to nobody until it was compared with the hub.
//
// It does not include the key of an encrypted store, and nothing of the kubelet or the container
// runtime. The commands `leaf backup` and `leaf restore` call it, and the leaf holds its Lock.
package backup
