package bridge

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// The bounds of one report. An object of the API has 1.5 MiB at most; one that is
// decoded takes memory by its number of parts, which empty ones make much of.
const (
	maxReportParts   = 8
	maxReportObjects = 20_000
)

// loadReport reads a message of REPORTED, if it is within the bounds; what is not is
// streams.ErrUndecodable.
func loadReport(ctx context.Context, stream jetstream.Stream, msg jetstream.Msg) (string, streams.Message, error) {
	if n, err := strconv.Atoi(msg.Headers().Get(streams.HeaderParts)); err == nil && n > maxReportParts {
		site, ref, _ := streams.ParseReported(msg.Subject())
		return site, streams.Message{Ref: ref}, fmt.Errorf("%w: %s is in %d parts, at most %d are read", streams.ErrUndecodable, ref, n, maxReportParts)
	}
	if err := boundedJSON(msg.Data(), maxReportObjects); err != nil {
		site, ref, _ := streams.ParseReported(msg.Subject())
		return site, streams.Message{Ref: ref}, fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, ref, err)
	}
	site, m, err := streams.Load(ctx, stream, msg.Subject(), msg.Headers(), msg.Data())
	if err == nil && msg.Headers().Get(streams.HeaderParts) != "" {
		if err = boundedJSON(m.Object, maxReportObjects); err != nil {
			err = fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, m.Ref, err)
		}
	}
	return site, m, err
}

// boundedJSON refuses a document with more than so many objects and lists.
func boundedJSON(data []byte, most int) error {
	if n := bytes.Count(data, []byte("{")) + bytes.Count(data, []byte("[")); n > most {
		return fmt.Errorf("%d objects and lists in one document, at most %d are read", n, most)
	}
	return nil
}
