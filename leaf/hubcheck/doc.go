// Package hubcheck checks what the hub offers to a site, when the link comes up and from time to
// time after that: that the site's account imports every subject, that its nats-server is new
// enough, and how large a message may be.
//
// It guarantees that what is missing is named in the log, in the heartbeat and by /readyz, instead
// of showing up as something that never arrives. It changes nothing and blocks nobody: a site works
// without its hub. The leaf runs one Checker; the replicator and the forwarders ask it for the size
// of the largest message.
package hubcheck
