package bridge

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// The bounds of one report. An object of the API has 1.5 MiB at most; one that is
// decoded takes memory by its number of objects and lists, which empty ones make much of.
// With maxWaiting they bound what the bridge keeps of one site.
const (
	maxReportParts   = 256
	maxReportBytes   = maxReportParts * streams.PartBytes
	maxReportObjects = 20_000
)

// loadReport reads a message of REPORTED, if it is within the bounds; what is not is
// streams.ErrUndecodable.
func loadReport(ctx context.Context, stream jetstream.Stream, a *delivery) (streams.Message, error) {
	parts := a.header.Get(streams.HeaderParts)
	if n, err := strconv.Atoi(parts); err == nil && n > maxReportParts {
		return unreadable(a, fmt.Errorf("in %d parts, at most %d are read", n, maxReportParts))
	}
	if err := streams.CheckJSON(a.data, maxReportObjects); err != nil {
		return unreadable(a, err)
	}
	_, m, err := streams.Load(ctx, stream, a.subject, a.header, a.data)
	if err == nil && parts != "" {
		if len(m.Object) > maxReportBytes {
			return unreadable(a, fmt.Errorf("of %d bytes, at most %d are read", len(m.Object), maxReportBytes))
		}
		if err := streams.CheckJSON(m.Object, maxReportObjects); err != nil {
			return unreadable(a, err)
		}
	}
	return m, err
}

func unreadable(a *delivery, reason error) (streams.Message, error) {
	_, ref, _ := streams.ParseReported(a.subject)
	return streams.Message{Ref: ref}, fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, ref, reason)
}
