package streams

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// headerRoom is what the headers and the protocol take of max_payload at most.
const headerRoom = 4096

const headerPartHash = "Petiole-Part-Hash"

// ErrSuperseded reports that the parts of a large object belong to a newer version
// than the message that asked for them. The newer version's own message follows.
var ErrSuperseded = errors.New("superseded by a newer version")

// Put stores m on subject and returns its stream sequence. It blocks until
// JetStream acknowledges, or ctx ends. A message larger than the server's
// max_payload is stored as parts first and then as a message that names them, so
// that a reader who sees the message finds the parts.
func Put(ctx context.Context, js jetstream.JetStream, subject string, m Message, opts ...jetstream.PublishOpt) (uint64, error) {
	msg := m.Encode(subject)
	if limit := int(js.Conn().MaxPayload()) - headerRoom; limit > 0 && len(msg.Data) > limit {
		n, hash, err := putParts(ctx, js, subject, msg.Data, limit)
		if err != nil {
			return 0, fmt.Errorf("store parts of %s: %w", m.Ref, err)
		}
		msg.Data = nil
		msg.Header.Set(HeaderParts, strconv.Itoa(n))
		msg.Header.Set(headerPartHash, hash)
	}
	ack, err := js.PublishMsg(ctx, msg, opts...)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", m.Ref, err)
	}
	return ack.Sequence, nil
}

func putParts(ctx context.Context, js jetstream.JetStream, subject string, data []byte, limit int) (int, string, error) {
	sum := sha256.Sum256(data)
	hash := hex.EncodeToString(sum[:])
	n := 0
	for ; len(data) > 0; n++ {
		size := min(limit, len(data))
		msg := nats.NewMsg(partSubject(subject, n))
		msg.Header.Set(headerPartHash, hash)
		msg.Data = data[:size]
		if _, err := js.PublishMsg(ctx, msg); err != nil {
			return 0, "", err
		}
		data = data[size:]
	}
	return n, hash, nil
}

// Load decodes one stored message and, when it is in parts, reads them from stream.
// Errors: ErrUndecodable, ErrSuperseded, or the stream's, which a retry may cure.
func Load(ctx context.Context, stream jetstream.Stream, subject string, header nats.Header, data []byte) (string, Message, error) {
	site, m, err := Decode(subject, header, data)
	if err != nil || header.Get(HeaderParts) == "" || m.Op == OpDelete {
		return site, m, err
	}
	n, err := strconv.Atoi(header.Get(HeaderParts))
	if err != nil || n < 1 || n > 1024 {
		return site, m, fmt.Errorf("%w: %s: header %s is %q, want 1 to 1024", ErrUndecodable, m.Ref, HeaderParts, header.Get(HeaderParts))
	}
	hash := header.Get(headerPartHash)
	var body []byte
	for i := range n {
		part, err := stream.GetLastMsgForSubject(ctx, partSubject(subject, i))
		if err != nil {
			return site, m, fmt.Errorf("read part %d of %s: %w", i, m.Ref, err)
		}
		if part.Header.Get(headerPartHash) != hash {
			return site, m, fmt.Errorf("part %d of %s: %w", i, m.Ref, ErrSuperseded)
		}
		body = append(body, part.Data...)
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
