package network

import "errors"

// Limit limits both directions of the site's link to a rate such as "64kbit" (tc-tbf(8)), until Unlimit.
// A packet that would wait longer than a second is dropped.
func (n Network) Limit(s Site, rate string) error {
	tbf := []string{"root", "tbf", "rate", rate, "burst", "4kb", "latency", "1s"}
	return errors.Join(
		run("", "tc", append([]string{"qdisc", "replace", "dev", n.veth(s)}, tbf...)...),
		run("", "tc", append([]string{"-n", s.namespace(), "qdisc", "replace", "dev", "uplink"}, tbf...)...),
	)
}

// Unlimit ends Limit.
func (n Network) Unlimit(s Site) error {
	return errors.Join(
		run("", "tc", "qdisc", "del", "dev", n.veth(s), "root"),
		run("", "tc", "-n", s.namespace(), "qdisc", "del", "dev", "uplink", "root"),
	)
}
