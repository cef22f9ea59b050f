package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// IsSecret reports whether the object is a Secret, of which nothing may stay on disk when it is no
// longer needed.
func (r Ref) IsSecret() bool { return r.Group == "" && r.Resource == "secrets" }

// Erase removes the last message of a subject and the parts of its object, and has the server
// overwrite them on its disk: a message that a newer one replaces stays in its file until the
// server compacts that, which it may never do. It does nothing to a tombstone, and, unless expected
// is 0, to a message of another sequence than the expected one. It returns the sequence of what the
// subject has then, 0 if it has nothing.
//
// If the server is killed before another message is stored on the subject, the message before the
// erased one may come back (docs/upstream.md, 7).
//
// An encrypted store (nats-server 2.15.2) overwrites nothing: what stays is encrypted.
func Erase(ctx context.Context, stream jetstream.Stream, subject string, expected uint64) (last uint64, err error) {
	seqs, last, err := Erasable(ctx, stream, subject, expected)
	if err != nil {
		return 0, err
	}
	return last, EraseMessages(ctx, stream, seqs)
}

// Erasable returns the sequences that Erase would remove, in the order in which it removes them,
// and the sequence of what the subject has then.
func Erasable(ctx context.Context, stream jetstream.Stream, subject string, expected uint64) (seqs []uint64, last uint64, err error) {
	msg, err := stream.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return nil, 0, fmt.Errorf("erase %s: %w", subject, err)
	case msg.Header.Get(HeaderOp) != string(OpPut), expected > 0 && msg.Sequence != expected:
		return nil, msg.Sequence, nil
	default:
		seqs = append(seqs, msg.Sequence)
	}
	// The last part first: if this is interrupted, the others are found by the next try.
	var parts []uint64
	for i := 0; ; i++ {
		part, err := stream.GetLastMsgForSubject(ctx, PartSubject(subject, i))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("erase part %d of %s: %w", i, subject, err)
		}
		parts = append(parts, part.Sequence)
	}
	slices.Reverse(parts)
	return append(seqs, parts...), 0, nil
}

// EraseMessages removes messages and has the server overwrite them on its disk. It is no error if
// some do not exist.
func EraseMessages(ctx context.Context, stream jetstream.Stream, seqs []uint64) error {
	for _, seq := range seqs {
		err := stream.SecureDeleteMsg(ctx, seq)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return fmt.Errorf("erase message %d of %s: %w", seq, stream.CachedInfo().Config.Name, err)
		}
	}
	return nil
}
