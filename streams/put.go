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

// PartBytes is the most that one message of an object carries: what a line of 9.6 kbit/s
// takes less time for than the ends wait for an answer to their pings.
const PartBytes = 8 << 10

// maxObject bounds what is put together of parts. The API server takes 1.5 MiB.
const maxObject = 8 << 20

// headerRoom is what the headers and the protocol take of max_payload at most.
const headerRoom = 4096

const headerPartHash = "Petiole-Part-Hash"

// ErrSuperseded reports that the parts of a large object belong to a newer version
// than the message that asked for them. The newer version's own message follows.
var ErrSuperseded = errors.New("superseded by a newer version")

// Put stores m on subject and returns its stream sequence. It blocks until JetStream
// acknowledges, or ctx ends. An object larger than PartBytes, or than
// what the server's max_payload leaves room for, is stored as
// parts and a message that names them, all of them or none (ADR-50): a reader who sees the
// message finds its parts, and what is refused for opts has changed no part.
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

// sendParts sends what is in msg as the parts of an atomic batch that msg commits.
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
		return fmt.Errorf("%d bytes are %d parts, the most are %d", len(msg.Data), len(batch), MaxBatch-1)
	}
	msg.Data = nil
	msg.Header.Set(HeaderParts, strconv.Itoa(len(batch)))
	msg.Header.Set(headerPartHash, hash)
	MarkBatch(append(batch, msg))
	for _, part := range batch {
		if err := nc.PublishMsg(part); err != nil {
			return err
		}
	}
	return nil
}

// Load decodes one stored message and, when it is in parts, reads them from stream.
// Errors: ErrUndecodable, ErrSuperseded, or the stream's, which a retry may cure.
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
			return site, m, fmt.Errorf("%w: %s: its parts have more than %d bytes", ErrUndecodable, m.Ref, maxObject)
		}
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != hash {
		return site, m, fmt.Errorf("%w: %s: its parts do not have the digest %s", ErrUndecodable, m.Ref, hash)
	}
	m.Object = body
	return site, m, m.checkObject()
}

// ObjectSubject is the subject of the object that a part belongs to, or subject
// itself.
func ObjectSubject(subject string) string {
	if i := strings.Index(subject, "."+partToken+"."); i >= 0 {
		return subject[:i]
	}
	return subject
}

// NamesPart reports whether an object's message with the headers h has the part of that
// number and with those headers.
func NamesPart(h nats.Header, index int, part nats.Header) bool {
	n, err := strconv.Atoi(h.Get(HeaderParts))
	return err == nil && index < n && h.Get(headerPartHash) == part.Get(headerPartHash)
}

// PartsSeen tells, in a reading of a stream's last messages in their order, which objects
// in parts are whole: for each object it holds how many parts of which digest there were.
// The zero value is not usable; make it.
type PartsSeen map[string]map[string]int

// Take notes a message, and reports whether that is an object, or a tombstone, with all of
// its parts. It is false for a part.
func (p PartsSeen) Take(subject string, h nats.Header) bool {
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
