package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/traffic"
)

const (
	// answerWait is how long the bridge may take to answer, without the time that the report takes on
	// the slowest link.
	answerWait = 15 * time.Second
	// minAgain and maxAgain bound the time before a report is sent again that was not answered.
	minAgain = 5 * time.Second
	maxAgain = 10 * time.Minute
	// levelInterval is how often it is looked whether something else waits now.
	levelInterval = 5 * time.Second
)

// ReporterConfig is what a Reporter needs.
type ReporterConfig struct {
	Site    string
	Account *Account
	Link    *link.Link
	// Interval is the time between two reports in one session of the link.
	Interval time.Duration
	Conn     *nats.Conn
	Meter    *transfer.Meter
	Log      *zap.Logger
}

// Reporter tells the bridge what an Account counts: all days when the link comes up, and those that
// change in each interval, when what waits changes, and when the bridge asks. The answer has the
// bridge's clock and the budget. Use NewReporter.
type Reporter struct {
	cfg ReporterConfig
	// budget and level are the last ones that the bridge knows.
	budget int64
	level  traffic.Level
}

// NewReporter returns a reporter that has not started.
func NewReporter(cfg ReporterConfig) *Reporter { return &Reporter{cfg: cfg} }

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) (err error) {
	control := make(chan *nats.Msg, 8)
	sub, err := r.cfg.Conn.ChanSubscribe(streams.SyncSubject(r.cfg.Site), control)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", streams.SyncSubject(r.cfg.Site), err)
	}
	defer func() {
		if uerr := sub.Unsubscribe(); uerr != nil && !r.cfg.Conn.IsClosed() && err == nil {
			err = fmt.Errorf("unsubscribe: %w", uerr)
		}
	}()
	var session time.Time // whose bridge has all days
	for again := minAgain; ; {
		up, since, changed := r.cfg.Link.State()
		var next <-chan time.Time
		if up {
			known := len(r.cfg.Account.Report(false).Days) > 0
			err := r.report(ctx, !since.Equal(session))
			switch {
			case err == nil && known:
				session, again = since, minAgain
				next = time.After(r.cfg.Interval)
			case err == nil: // the answer has told which day it is
				again, next = minAgain, time.After(minAgain)
			default:
				r.cfg.Log.Debug("the bridge does not know what the link carried", zap.Error(err))
				next = time.After(again)
				again = min(2*again, maxAgain)
			}
		}
		var ended bool
		if again, ended = r.wait(ctx, again, changed, next, control); ended {
			return nil
		}
	}
}

// wait returns when it is time for a report, with the time until the next one if it is not answered, or
// when ctx has ended.
func (r *Reporter) wait(ctx context.Context, again time.Duration, changed <-chan struct{}, next <-chan time.Time, control <-chan *nats.Msg) (unanswered time.Duration, ended bool) {
	tick := time.NewTicker(levelInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, true
		case <-changed:
			return minAgain, false
		case <-next:
			return again, false
		case m := <-control:
			if m.Header.Get(streams.HeaderControl) == streams.ControlTraffic {
				return minAgain, false
			}
		case <-tick.C:
			budget, level := r.cfg.Account.Budget()
			if up, _, _ := r.cfg.Link.State(); up && again == minAgain && (budget != r.budget || level != r.level) {
				return again, false
			}
		}
	}
}

// report sends a report and takes over what the answer says.
func (r *Reporter) report(ctx context.Context, all bool) error {
	report := r.cfg.Account.Report(all)
	data, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("encode a report: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait+transfer.Duration(len(data)))
	defer cancel()
	reply, err := transfer.Requester{Conn: r.cfg.Conn, Meter: r.cfg.Meter}.RequestWithContext(ctx, streams.RequestSubject(r.cfg.Site, traffic.Request), data)
	if err != nil {
		return fmt.Errorf("send a report: %w", err)
	}
	var answer traffic.Answer
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("decode the answer to a report: %w", err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	r.budget, r.level = report.Budget, report.Level
	if answer.Time.IsZero() {
		return nil
	}
	r.cfg.Account.SetTime(answer.Time)
	r.cfg.Account.SetBudget(max(answer.Budget, 0))
	return nil
}
