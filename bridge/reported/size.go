package reported

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

// The bounds of one report. An object of the API has at most 1.5 MiB. The memory that decoding
// takes depends on the number of objects and lists, which can be large in a small document.
// Together with maxWaiting these bounds limit the memory that one site can occupy.
const (
	maxReportParts   = 256
	maxReportBytes   = maxReportParts * streams.PartBytes
	maxReportObjects = 20_000
)

// loadReport reads a report with its parts. It returns streams.ErrUndecodable if the report
// exceeds a bound.
func loadReport(ctx context.Context, stream jetstream.Stream, d *table.Message) (streams.Message, error) {
	parts := d.Header.Get(streams.HeaderParts)
	if n, err := strconv.Atoi(parts); err == nil && n > maxReportParts {
		return unreadable(d, fmt.Errorf("%d parts, the limit is %d", n, maxReportParts))
	}
	if err := streams.CheckJSON(d.Data, maxReportObjects); err != nil {
		return unreadable(d, err)
	}
	_, m, err := streams.Load(ctx, stream, d.Subject, d.Header, d.Data)
	if err == nil && parts != "" {
		if len(m.Object) > maxReportBytes {
			return unreadable(d, fmt.Errorf("%d bytes, the limit is %d", len(m.Object), maxReportBytes))
		}
		if err := streams.CheckJSON(m.Object, maxReportObjects); err != nil {
			return unreadable(d, err)
		}
	}
	return m, err
}

func unreadable(d *table.Message, reason error) (streams.Message, error) {
	_, ref, _ := streams.ParseReported(d.Subject)
	return streams.Message{Ref: ref}, fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, ref, reason)
}
