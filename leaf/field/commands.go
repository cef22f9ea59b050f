package field

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/host"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// maxConcurrentCommands bounds the commands in progress. Those of one device run one
	// after another.
	maxConcurrentCommands = 64
	// defaultCommandTimeout is the timeout of a command without a deadline.
	defaultCommandTimeout = 30 * time.Second
	// maxCommandTimeout bounds a deadline, so that no command occupies a slot for hours.
	maxCommandTimeout = 10 * time.Minute
	// commandGrace is the time for which the host's result is awaited after the deadline.
	commandGrace = 2 * time.Second
)

// The reasons of commands without a result from a device.
const (
	reasonInvalid        = "InvalidCommand"
	reasonUnknownDevice  = "UnknownDevice"
	reasonBusy           = "Busy"
	reasonOutcomeUnknown = "Unknown"
	reasonTimeUnknown    = "TimeUnknown"
)

// commands answers the requests that are commands to devices.
type commands struct {
	site, node string
	index      *deviceIndex
	// host executes a command at most once for each id.
	host func(context.Context, devices.Command) (devices.CommandResult, error)
	// until is clock.Clock.Until.
	until func(time.Time) (time.Duration, bool)
	meter *transfer.Meter
	log   *zap.Logger
	slots chan struct{}
}

func newCommands(site, node string, r *deviceIndex, host func(context.Context, devices.Command) (devices.CommandResult, error), until func(time.Time) (time.Duration, bool), meter *transfer.Meter, log *zap.Logger) *commands {
	return &commands{site: site, node: node, index: r, host: host, until: until, meter: meter, log: log, slots: make(chan struct{}, maxConcurrentCommands)}
}

// run answers requests until ctx ends. It returns after all requests in progress have been
// answered.
func (c *commands) run(ctx context.Context, nc *nats.Conn) error {
	var answering sync.WaitGroup
	defer answering.Wait()
	requests := make(chan *nats.Msg, maxConcurrentCommands)
	sub, err := nc.ChanSubscribe(streams.CommandFilter(c.site), requests)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", streams.CommandFilter(c.site), err)
	}
	defer func() {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			c.log.Warn("unsubscribe from commands", zap.Error(err))
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-requests:
			received := time.Now()
			answering.Go(func() { c.answer(ctx, m, received) })
		}
	}
}

// answer handles one request. It leaves a request for a device of another node to the worker
// of that node, and ignores one without a reply subject, because nobody would learn its
// result.
func (c *commands) answer(ctx context.Context, m *nats.Msg, received time.Time) {
	_, namespace, name, err := streams.ParseCommand(m.Subject)
	if err != nil || m.Reply == "" {
		c.log.Warn("command ignored: invalid subject or no reply subject", zap.String("subject", m.Subject), zap.Bool("reply", m.Reply != ""), zap.Error(err))
		return
	}
	node, known := c.index.nodeOf(namespace, name)
	if known && node != c.node {
		return
	}
	result := c.handle(ctx, devices.Ref{Namespace: namespace, Name: name}, m.Data, received)
	c.meter.Down(transfer.KindCommands, m)
	body, err := json.Marshal(result)
	if err == nil {
		c.meter.Up(transfer.KindCommands, &nats.Msg{Subject: m.Reply, Data: body})
		err = m.Respond(body)
	}
	if err != nil {
		c.log.Warn("answer command", zap.String("subject", m.Subject), zap.String("id", result.ID), zap.Error(err))
	}
}

func (c *commands) handle(ctx context.Context, device devices.Ref, body []byte, received time.Time) devices.CommandResult {
	command, err := parseCommand(body, received, c.until)
	if errors.Is(err, errTimeUnknown) {
		return devices.CommandResult{ID: command.ID, Ack: devices.Failed, Reason: reasonTimeUnknown, Message: err.Error()}
	}
	if err != nil {
		return devices.CommandResult{ID: command.ID, Ack: devices.Rejected, Reason: reasonInvalid, Message: err.Error()}
	}
	command.Device = device
	return c.execute(ctx, command)
}

// execute passes a command to the host. It returns at the latest commandGrace after the
// command's deadline.
func (c *commands) execute(ctx context.Context, command devices.Command) devices.CommandResult {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default:
		return devices.CommandResult{
			ID: command.ID, Ack: devices.Failed, Reason: reasonBusy,
			Message: fmt.Sprintf("%d commands are in progress: nothing was written, try again", maxConcurrentCommands),
		}
	}
	ctx, cancel := context.WithTimeout(ctx, max(time.Until(command.Deadline), 0)+commandGrace)
	defer cancel()
	result, err := c.host(ctx, command)
	switch {
	case err == nil:
		return result
	case errors.Is(err, host.ErrUnknownDevice):
		return devices.CommandResult{ID: command.ID, Ack: devices.Rejected, Reason: reasonUnknownDevice, Message: "the site has no device " + command.Device.String()}
	default:
		return devices.CommandResult{
			ID: command.ID, Ack: devices.Failed, Reason: reasonOutcomeUnknown,
			Message: err.Error() + ": send the command again with the same id to learn the outcome",
		}
	}
}

// errTimeUnknown reports that a deadline cannot be judged.
var errTimeUnknown = errors.New("nothing was written: the clock of the gateway is not set, and neither NTP nor the hub has told it the time yet: " +
	"send the command again later, or with a timeout in place of the deadline")

// parseCommand decodes the body of a request and rejects unknown fields; the host validates
// the properties. The command has no device yet. On an error it has the id if the body
// contains a valid one. A deadline is one by the right clock, and until returns the time that is left;
// that of the command is by the clock of this process, which no step of the wall clock moves.
func parseCommand(body []byte, received time.Time, until func(time.Time) (time.Duration, bool)) (devices.Command, error) {
	var b struct {
		ID         string            `json:"id"`
		Method     string            `json:"method"`
		Properties map[string]string `json:"properties"`
		Deadline   *time.Time        `json:"deadline"`
		Timeout    *metav1.Duration  `json:"timeout"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return devices.Command{}, fmt.Errorf("read the body: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return devices.Command{}, errors.New("the body goes on after the JSON object")
	}
	if err := checkID(b.ID); err != nil {
		return devices.Command{}, err
	}
	c := devices.Command{ID: b.ID, Method: b.Method, Properties: b.Properties, Deadline: received.Add(defaultCommandTimeout)}
	if len(b.Properties) == 0 {
		return c, errors.New("properties is empty: nothing to write")
	}
	for name, value := range b.Properties {
		if name == "" {
			return c, fmt.Errorf("properties has a value %q without a name", value)
		}
	}
	switch {
	case b.Deadline != nil && b.Timeout != nil:
		return c, fmt.Errorf("deadline %s and timeout %s exclude each other", b.Deadline.Format(time.RFC3339), b.Timeout.Duration)
	case b.Timeout != nil:
		if t := b.Timeout.Duration; t <= 0 || t > maxCommandTimeout {
			return c, fmt.Errorf("timeout %s must be positive and at most %s", t, maxCommandTimeout)
		}
		c.Deadline = received.Add(b.Timeout.Duration)
	case b.Deadline != nil:
		return withDeadline(c, *b.Deadline, received, until)
	}
	return c, nil
}

func withDeadline(c devices.Command, deadline, received time.Time, until func(time.Time) (time.Duration, bool)) (devices.Command, error) {
	left, known := until(deadline)
	if left == 0 && !known {
		return c, errTimeUnknown
	}
	if left > maxCommandTimeout {
		return c, fmt.Errorf("deadline %s is more than %s away: it is %s", deadline.Format(time.RFC3339), maxCommandTimeout, deadline.Add(-left).UTC().Format(time.RFC3339))
	}
	c.Deadline = received.Add(max(left, -time.Hour)) // a difference that no time can overflow
	return c, nil
}

func checkID(id string) error {
	if id == "" {
		return errors.New("id is missing")
	}
	for _, r := range id {
		if !unicode.IsGraphic(r) {
			return fmt.Errorf("id %q has characters that cannot be printed", id)
		}
	}
	return nil
}
