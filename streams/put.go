package streams

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// PartBytes is the maximum size of an object in one message: a line of 9.6 kbit/s transmits
// it in less time than the two ends wait for the answer to a ping.
const PartBytes = 8 << 10

// maxObject bounds an object that is assembled from parts. The API server accepts 1.5 MiB.
const maxObject = 8 << 20

// headerRoom is the part of max_payload that is left for the headers and the protocol.
const headerRoom = 4096

const headerPartHash = "Petiole-Part-Hash"

// ErrSuperseded reports that the parts of a large object belong to a newer version than
// the message that refers to them. The newer version's own message follows.
var ErrSuperseded = errors.New("superseded by a newer version")

// Put stores m on subject and returns its stream sequence. It blocks until JetStream
// acknowledges, or ctx ends. An object larger than PartBytes, or than the server's
// max_payload allows, is stored in parts and a message that refers to them, atomically
// (ADR-50): a reader that sees the message finds its parts, and a Put that fails because of
// opts changes no part.
func Put(ctx context.Context, js jetstream.JetStream, subject string, m Message, opts ...jetstream.PublishOpt) (uint64, error) {
	msg := m.Encode(subject)
	limit := PartBytes
	if most := int(js.Conn().MaxPayload()) - headerRoom; most > 0 {
		limit = min(limit, most)
	}
	if len(msg.Data) > limit {
		if err := sendParts(js.Conn(), msg, limit); err != nil {
			return 0, fmt.Errorf("store parts of %s: %w", m.Ref, err)
		}
	}
	ack, err := js.PublishMsg(ctx, msg, opts...)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", m.Ref, err)
	}
	return ack.Sequence, nil
}

// sendParts moves the body of msg into parts and publishes them as the beginning of an
// atomic batch, which msg commits.
func sendParts(nc *nats.Conn, msg *nats.Msg, limit int) error {
	sum := sha256.Sum256(msg.Data)
	hash := hex.EncodeToString(sum[:])
	var batch []*nats.Msg
	for data := range slices.Chunk(msg.Data, limit) {
		part := nats.NewMsg(PartSubject(msg.Subject, len(batch)))
		part.Header.Set(headerPartHash, hash)
		part.Data = data
		batch = append(batch, part)
	}
	if len(batch) >= MaxBatch {
		return fmt.Errorf("%d bytes make %d parts, the maximum is %d", len(msg.Data), len(batch), MaxBatch-1)
	}
	msg.Data = nil
	msg.Header.Set(HeaderParts, strconv.Itoa(len(batch)))
	msg.Header.Set(headerPartHash, hash)
	return publishBeginning(nc, append(batch, msg))
}

// Load decodes a stored message and, if its object is in parts, reads them from stream. It
// returns ErrUndecodable, ErrSuperseded, or an error of the stream, which may be temporary.
func Load(ctx context.Context, stream jetstream.Stream, subject string, header nats.Header, data []byte) (string, Message, error) {
	site, m, err := Decode(subject, header, data)
	if err != nil || header.Get(HeaderParts) == "" || m.Op == OpDelete {
		return site, m, err
	}
	n, err := strconv.Atoi(header.Get(HeaderParts))
	if err != nil || n < 1 || n >= MaxBatch {
		return site, m, fmt.Errorf("%w: %s: header %s is %q, want 1 to %d", ErrUndecodable, m.Ref, HeaderParts, header.Get(HeaderParts), MaxBatch-1)
	}
	hash := header.Get(headerPartHash)
	var body []byte
	for i := range n {
		part, err := stream.GetLastMsgForSubject(ctx, PartSubject(subject, i))
		if err != nil {
			return site, m, fmt.Errorf("read part %d of %s: %w", i, m.Ref, err)
		}
		if part.Header.Get(headerPartHash) != hash {
			return site, m, fmt.Errorf("part %d of %s: %w", i, m.Ref, ErrSuperseded)
		}
		if body = append(body, part.Data...); len(body) > maxObject {
			return site, m, fmt.Errorf("%w: %s: its parts are larger than %d bytes", ErrUndecodable, m.Ref, maxObject)
		}
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != hash {
		return site, m, fmt.Errorf("%w: %s: its parts do not have the digest %s", ErrUndecodable, m.Ref, hash)
	}
	m.Object = body
	return site, m, m.checkObject()
}

// ObjectSubject returns the subject of the object that a part belongs to, or subject itself
// if it is not that of a part.
func ObjectSubject(subject string) string {
	if i := strings.Index(subject, "."+partToken+"."); i >= 0 {
		return subject[:i]
	}
	return subject
}

// NamesPart reports whether an object's message with the headers h refers to the part with
// the given index and headers.
func NamesPart(h nats.Header, index int, part nats.Header) bool {
	n, err := strconv.Atoi(h.Get(HeaderParts))
	return err == nil && index < n && h.Get(headerPartHash) == part.Get(headerPartHash)
}

// PartsSeen counts the parts of large objects while the last messages of a stream are read
// in order, by object and digest, to find the objects that are complete. Create it with
// make.
type PartsSeen map[string]map[string]int

// Add counts a message. It reports whether the message is an object with all of its parts,
// or a tombstone; it returns false for a part.
func (p PartsSeen) Add(subject string, h nats.Header) bool {
	object, hash := ObjectSubject(subject), h.Get(headerPartHash)
	if object != subject {
		if p[object] == nil {
			p[object] = map[string]int{}
		}
		p[object][hash]++
		return false
	}
	n, err := strconv.Atoi(h.Get(HeaderParts))
	return err != nil || p[object][hash] >= n
}
