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

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/streams"
)

const (
	// commandsAtOnce bounds the commands under way; a device does its own in turn.
	commandsAtOnce = 64
	// commandTime is how long a command without a deadline may take.
	commandTime = 30 * time.Second
	// commandTimeMax bounds a deadline, so that nobody holds a place for hours.
	commandTimeMax = 10 * time.Minute
	// commandGrace is how long after the deadline the host's own word is waited for.
	commandGrace = 2 * time.Second
)

// The reasons of commands that did not reach a device.
const (
	reasonInvalid = "InvalidCommand"
	reasonUnknown = "UnknownDevice"
	reasonBusy    = "Busy"
	reasonNoWord  = "Unknown"
)

// commands serves the requests for commands to devices.
type commands struct {
	site, node string
	roster     *roster
	// host carries a command out, at most once for its id.
	host func(context.Context, devices.Command) (devices.CommandResult, error)
	log  *zap.Logger
	free chan struct{}
}

func newCommands(site, node string, r *roster, host func(context.Context, devices.Command) (devices.CommandResult, error), log *zap.Logger) *commands {
	return &commands{site: site, node: node, roster: r, host: host, log: log, free: make(chan struct{}, commandsAtOnce)}
}

// run answers requests until ctx ends and all that are under way have been answered.
func (c *commands) run(ctx context.Context, nc *nats.Conn) error {
	var answering sync.WaitGroup
	defer answering.Wait()
	requests := make(chan *nats.Msg, commandsAtOnce)
	sub, err := nc.ChanSubscribe(streams.CommandFilter(c.site), requests)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", streams.CommandFilter(c.site), err)
	}
	defer func() {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			c.log.Warn("commands are still subscribed", zap.Error(err))
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

// answer carries out one request. One for a device of another node is left to that
// node's worker; one that expects no answer is ignored, because nobody would learn what
// became of it.
func (c *commands) answer(ctx context.Context, m *nats.Msg, received time.Time) {
	_, namespace, name, err := streams.ParseCommand(m.Subject)
	if err != nil || m.Reply == "" {
		c.log.Warn("command ignored", zap.String("subject", m.Subject), zap.Bool("reply", m.Reply != ""), zap.Error(err))
		return
	}
	node, known := c.roster.nodeOf(namespace, name)
	if known && node != c.node {
		return
	}
	result := c.carryOut(ctx, devices.Ref{Namespace: namespace, Name: name}, m.Data, received)
	body, err := json.Marshal(result)
	if err == nil {
		err = m.Respond(body)
	}
	if err != nil {
		c.log.Warn("command not answered", zap.String("subject", m.Subject), zap.String("id", result.ID), zap.Error(err))
	}
}

func (c *commands) carryOut(ctx context.Context, device devices.Ref, body []byte, received time.Time) devices.CommandResult {
	command, err := parseCommand(body, received)
	if err != nil {
		return devices.CommandResult{ID: command.ID, Ack: devices.Rejected, Reason: reasonInvalid, Message: err.Error()}
	}
	command.Device = device
	return c.do(ctx, command)
}

// do has the host carry out a command, and says what came of it soon after its deadline
// at the latest.
func (c *commands) do(ctx context.Context, command devices.Command) devices.CommandResult {
	select {
	case c.free <- struct{}{}:
		defer func() { <-c.free }()
	default:
		return devices.CommandResult{
			ID: command.ID, Ack: devices.Failed, Reason: reasonBusy,
			Message: fmt.Sprintf("%d commands are under way: nothing was done, try again", commandsAtOnce),
		}
	}
	ctx, cancel := context.WithTimeout(ctx, max(time.Until(command.Deadline), 0)+commandGrace)
	defer cancel()
	result, err := c.host(ctx, command)
	switch {
	case err == nil:
		return result
	case errors.Is(err, devices.ErrUnknownDevice):
		return devices.CommandResult{ID: command.ID, Ack: devices.Rejected, Reason: reasonUnknown, Message: "the site has no device " + command.Device.String()}
	default:
		return devices.CommandResult{
			ID: command.ID, Ack: devices.Failed, Reason: reasonNoWord,
			Message: err.Error() + ": ask again with the same id to learn the outcome",
		}
	}
}

// parseCommand reads the body of a request, strictly; the host judges what
// it says. The command is for no device yet. On an error it has the id, if the body had a
// usable one.
func parseCommand(body []byte, received time.Time) (devices.Command, error) {
	var b struct {
		ID         string            `json:"id"`
		Method     string            `json:"method"`
		Properties map[string]string `json:"properties"`
		Deadline   *time.Time        `json:"deadline"`
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
	c := devices.Command{ID: b.ID, Method: b.Method, Properties: b.Properties, Deadline: received.Add(commandTime)}
	if len(b.Properties) == 0 {
		return c, errors.New("properties is empty: nothing to write")
	}
	for name, value := range b.Properties {
		if name == "" {
			return c, fmt.Errorf("properties has a value %q without a name", value)
		}
	}
	if b.Deadline != nil {
		c.Deadline = *b.Deadline
	}
	if c.Deadline.After(received.Add(commandTimeMax)) {
		return c, fmt.Errorf("deadline %s is more than %s away", c.Deadline.Format(time.RFC3339), commandTimeMax)
	}
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
