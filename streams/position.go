package streams

import (
	"fmt"
	"strconv"
	"strings"
)

// HeaderSource carries the HubPosition of a message of SITE_DESIRED.
const HeaderSource = "Petiole-Source"

// HeaderIdentity is the header of nats-server that requests ("?") and returns the identity of a
// stream when a consumer is reset.
const HeaderIdentity = "Nats-Stream-Identity"

// HubPosition is a position in the hub's stream DESIRED: a sequence, and the identity of the
// stream, which changes when the stream is created again. The zero value is the position before
// the first message of an unknown stream.
type HubPosition struct {
	Seq      uint64 `json:"position"`
	Identity string `json:"identity"`
}

// String returns "<seq> <identity>", the value of HeaderSource.
func (p HubPosition) String() string { return strconv.FormatUint(p.Seq, 10) + " " + p.Identity }

// ParseHubPosition is the inverse of String.
func ParseHubPosition(s string) (HubPosition, error) {
	seq, identity, _ := strings.Cut(s, " ")
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		return HubPosition{}, fmt.Errorf("header %s is %q, want a sequence and an identity", HeaderSource, s)
	}
	return HubPosition{n, identity}, nil
}

// SitePosition is a position in a stream of a leaf: a sequence, and the incarnation that
// assigned it, which changes when the leaf starts or finds that the stream was rolled back or
// created again. Sequences of different incarnations are not comparable.
type SitePosition struct {
	// Incarnation is about the time at which it started, in ns since 1970.
	Incarnation int64  `json:"claim"`
	Seq         uint64 `json:"seq"`
}
