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
// An encrypted store (nats-server 2.15.2) overwrites nothing: what stays is encrypted.
func Erase(ctx context.Context, stream jetstream.Stream, subject string, expected uint64) (last uint64, err error) {
	msg, err := stream.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return 0, fmt.Errorf("erase %s: %w", subject, err)
	case msg.Header.Get(HeaderOp) != string(OpPut), expected > 0 && msg.Sequence != expected:
		return msg.Sequence, nil
	default:
		if err := eraseMessage(ctx, stream, msg.Sequence); err != nil {
			return 0, fmt.Errorf("erase %s: %w", subject, err)
		}
	}
	// The last part first: if this is interrupted, the others are found by the next try.
	var parts []uint64
	for i := 0; ; i++ {
		part, err := stream.GetLastMsgForSubject(ctx, PartSubject(subject, i))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("erase part %d of %s: %w", i, subject, err)
		}
		parts = append(parts, part.Sequence)
	}
	for _, seq := range slices.Backward(parts) {
		if err := eraseMessage(ctx, stream, seq); err != nil {
			return 0, fmt.Errorf("erase a part of %s: %w", subject, err)
		}
	}
	return 0, nil
}

// eraseMessage erases a message. It is no error if it does not exist.
func eraseMessage(ctx context.Context, stream jetstream.Stream, seq uint64) error {
	err := stream.SecureDeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return nil
	}
	return err
}
