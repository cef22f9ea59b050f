package breaker

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/streams"
)

// recordKind is the kind of the suite's telemetry.
const recordKind = "breaker"

// producers are the sources of telemetry at each site.
var producers = []string{"pump", "valve"}

// recordPace is the time between two records of a source.
const recordPace = 400 * time.Millisecond

// recordFill makes a record so large that a few need another block of the disk.
const recordFill = 2000

// telemetryRecord is one record.
type telemetryRecord struct {
	N    int64  `json:"n"`
	Fill string `json:"fill"`
}

// produce publishes numbered records of one source to the leaf until ctx ends, and
// records which were acknowledged. A record without an acknowledgement is not sent
// again: it may or may not arrive.
func produce(ctx context.Context, v *siteView, source string, quiet *atomic.Bool) {
	nc, err := v.site.Connect()
	if err != nil {
		v.record.printf("no producer at %s: %v", v.site.Name, err)
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		v.record.printf("no producer at %s: %v", v.site.Name, err)
		return
	}
	subject := streams.LocalTelemetrySubject(recordKind, source)
	for n := int64(0); sleep(ctx, recordPace); {
		if quiet.Load() {
			continue
		}
		n++
		v.do(ctx, func(ctx context.Context) {
			data, err := json.Marshal(telemetryRecord{n, strings.Repeat("x", recordFill)})
			if err != nil {
				return
			}
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			ack, err := js.Publish(ctx, subject, data)
			switch {
			case err == nil:
				v.record.add(check.Event{Kind: check.Acked, Site: v.site.Name, Source: source, N: n, Seq: ack.Sequence})
			case refused(err):
				v.record.add(check.Event{Kind: check.Refused, Site: v.site.Name, Source: source, N: n, What: err.Error()})
			default:
				v.record.add(check.Event{Kind: check.Unsure, Site: v.site.Name, Source: source, N: n, What: err.Error()})
			}
		})
	}
}

// refused reports whether err is an answer that the record was not stored, rather than the lack
// of an answer.
func refused(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) || errors.Is(err, jetstream.ErrNoStreamResponse)
}
