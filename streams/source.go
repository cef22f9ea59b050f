package streams

import (
	"fmt"
	"strconv"
	"strings"
)

// HeaderSource carries the position in DESIRED (Source) of a message of SITE_DESIRED.
const HeaderSource = "Petiole-Source"

// Source is a position in DESIRED: a sequence, and the identity of the stream, which
// changes when the stream is created again. The zero value is the position before the first
// message of an unknown stream.
type Source struct {
	Seq      uint64
	Identity string
}

// String returns "<seq> <identity>", the value of HeaderSource.
func (s Source) String() string { return strconv.FormatUint(s.Seq, 10) + " " + s.Identity }

// ParseSource is the inverse of String.
func ParseSource(s string) (Source, error) {
	seq, identity, _ := strings.Cut(s, " ")
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		return Source{}, fmt.Errorf("header %s is %q, want a sequence and an identity", HeaderSource, s)
	}
	return Source{n, identity}, nil
}
