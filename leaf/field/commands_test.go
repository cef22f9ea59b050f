package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/streams"
)

// command sends a command and returns the result.
func (r *rig) command(device, body string) devices.CommandResult {
	r.t.Helper()
	m, err := r.js.Conn().Request(streams.CommandSubject("plant-a", "default", device), []byte(body), 10*time.Second)
	if err != nil {
		r.t.Fatalf("command %s: %v", body, err)
	}
	var result devices.CommandResult
	if err := json.Unmarshal(m.Data, &result); err != nil {
		r.t.Fatalf("answer %s: %v", m.Data, err)
	}
	return result
}

// TestCommand sets a property by a command, once for each id even if the command is repeated
// after a restart. A command that cannot be executed is answered with a reason.
func TestCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, stop := r.run()
	r.model()
	r.device("1", "7")
	r.deviceAt("plant-a-2", "other", "1", `"reportCycle":0`)
	r.eventually("reported value", func() bool { return r.reported() == "7" })
	r.eventually("everything applied", func() bool { return r.backlog() == 0 })

	done := r.command("pump", `{"id":"a","properties":{"setpoint":"21"}}`)
	if done.Ack != devices.Applied || done.Properties["setpoint"].After != "21" || done.Repeated {
		t.Errorf("command: %+v", done)
	}
	for _, c := range []struct{ device, body, ack, reason, message string }{
		{"pump", `{"id":"b","properties":{"setpoint":"2000"}}`, "rejected", devices.ReasonOutOfBounds, "2000"},
		{"pump", `{"id":"c","properties":{"nothing":"1"}}`, "rejected", devices.ReasonUnknownProperty, "nothing"},
		{"pump", `{"id":"d","properties":{"setpoint":5}}`, "rejected", reasonInvalid, "properties"},
		{"pump", `{"id":"e","properties":{}}`, "rejected", reasonInvalid, "properties"},
		{"pump", `{"properties":{"setpoint":"5"}}`, "rejected", reasonInvalid, "id is missing"},
		{"pump", `{"id":"f","device":{"name":"x"},"properties":{"setpoint":"5"}}`, "rejected", reasonInvalid, `"device"`},
		{"pump", `{"id":"g","properties":{"setpoint":"5"}} x`, "rejected", reasonInvalid, "goes on"},
		{"pump", `{"id":"h","properties":{"setpoint":"5"},"deadline":"2999-01-01T00:00:00Z"}`, "rejected", reasonInvalid, "2999-01-01T00:00:00Z"},
		{"pump", `{"id":"i","properties":{"setpoint":"5"},"deadline":"2001-01-01T00:00:00Z"}`, "expired", "", ""},
		{"pump", ``, "rejected", reasonInvalid, "EOF"},
		{"ghost", `{"id":"j","properties":{"setpoint":"5"}}`, "rejected", reasonUnknownDevice, "default/ghost"},
	} {
		got := r.command(c.device, c.body)
		if string(got.Ack) != c.ack || c.reason != "" && got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
			t.Errorf("command %s: %+v; want %s, %s, %q", c.body, got, c.ack, c.reason, c.message)
		}
	}
	// The worker of the other node would answer. This worker has received the request when a
	// later one is answered, and has sent all its answers when it has stopped.
	nc := r.js.Conn()
	answers, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest(streams.CommandSubject("plant-a", "default", "other"), answers.Subject, []byte(`{"id":"k","properties":{"setpoint":"5"}}`)); err != nil {
		t.Fatal(err)
	}
	r.command("ghost", `{"id":"l","properties":{"setpoint":"5"}}`)
	stop()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if m, err := answers.NextMsg(0); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("command to a device of another node: answered %v, %v", m, err)
	}
	_, stop = r.run()
	defer stop()
	r.eventually("commands after a restart", func() bool {
		_, err := r.js.Conn().Request(streams.CommandSubject("plant-a", "default", "ghost"), []byte(`{}`), time.Second)
		return err == nil
	})
	if again := r.command("pump", `{"id":"a","properties":{"setpoint":"21"}}`); again.Ack != devices.Applied || !again.Repeated {
		t.Errorf("repeated command: %+v", again)
	}
	if got, want := r.slave.written(), "[7 21]"; got != want {
		t.Errorf("written: %s, want %s", got, want)
	}
}

// TestConcurrentCommandsAreBounded fills all slots with commands that do not return. One more
// is rejected, and each of the others is answered soon after its deadline.
func TestConcurrentCommandsAreBounded(t *testing.T) { synctest.Test(t, concurrentCommandsAreBounded) }

func concurrentCommandsAreBounded(t *testing.T) {
	r := newDeviceIndex()
	r.put("default", "pump", "plant-a-1")
	entered := make(chan struct{}, maxConcurrentCommands)
	slow := func(ctx context.Context, c devices.Command) (devices.CommandResult, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return devices.CommandResult{}, ctx.Err()
	}
	c := newCommands("plant-a", "plant-a-1", r, slow, rightClock, nil, zaptest.NewLogger(t))
	results := make(chan devices.CommandResult, maxConcurrentCommands)
	deadline := time.Now().Add(500 * time.Millisecond)
	for i := range maxConcurrentCommands {
		go func() {
			results <- c.execute(t.Context(), devices.Command{ID: fmt.Sprint(i), Deadline: deadline})
		}()
	}
	for range maxConcurrentCommands {
		<-entered
	}
	if got := c.execute(t.Context(), devices.Command{ID: "more", Deadline: deadline}); got.Reason != reasonBusy {
		t.Errorf("one more: %+v, want %s", got, reasonBusy)
	}
	for range maxConcurrentCommands {
		if got := <-results; got.Ack != devices.Failed || got.Reason != reasonOutcomeUnknown || time.Since(deadline) > commandGrace+time.Second {
			t.Fatalf("%s after the deadline: %+v", time.Since(deadline), got)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	f.Add([]byte(`{"id":"a","properties":{"setpoint":"21"},"deadline":"2001-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"id":"\u0000","properties":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseCommand(body, time.Unix(1_700_000_000, 0), rightClock)
		if err == nil && (c.ID == "" || len(c.Properties) == 0 || c.Deadline.IsZero()) {
			t.Errorf("%q is taken as %+v", body, c)
		}
	})
}
