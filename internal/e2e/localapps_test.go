package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// mqttAddress is the address of the gateway's MQTT listener.
const mqttAddress = "127.0.0.1:1883"

// mqttOptions returns the options of a program on the site's gateway without credentials.
func mqttOptions(t *testing.T, site *rig.Site) *mqtt.ClientOptions {
	t.Helper()
	opts := mqtt.NewClientOptions().AddBroker("tcp://" + mqttAddress).SetClientID("e2e").SetConnectTimeout(5 * time.Second)
	return opts.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
		return site.Dial(t.Context(), "tcp", mqttAddress)
	})
}

// mqttClient connects as an application on the site's gateway.
func mqttClient(t *testing.T, site *rig.Site) mqtt.Client {
	t.Helper()
	password, err := credential.ReadPassword(lab.UserFile(site, fabric.UserApplication))
	must(t, err)
	c := mqtt.NewClient(mqttOptions(t, site).SetUsername(fabric.UserApplication).SetPassword(password))
	must(t, done(c.Connect()))
	t.Cleanup(func() { c.Disconnect(100) })
	return c
}

func done(t mqtt.Token) error {
	if !t.WaitTimeout(10 * time.Second) {
		return fmt.Errorf("no answer from %s", mqttAddress)
	}
	return t.Error()
}

// heard keeps the last payload of each topic.
type heard struct {
	mu   sync.Mutex
	last map[string][]byte
}

func (h *heard) take(_ mqtt.Client, m mqtt.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last[m.Topic()] = m.Payload()
}

// decodes returns nil when the topic's last payload decodes into v and ok holds.
func (h *heard) decodes(topic string, v any, ok func() bool) condition {
	return func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		payload := h.last[topic]
		if payload == nil {
			return fmt.Errorf("nothing heard on %s", topic)
		}
		if err := json.Unmarshal(payload, v); err != nil {
			return fmt.Errorf("payload of %s: %w", topic, err)
		}
		if !ok() {
			return fmt.Errorf("last on %s: %s", topic, payload)
		}
		return nil
	}
}

// TestLocalApplications: while the link is cut, an application on the gateway follows a
// device over MQTT with KubeEdge's topics, and sets a value; the command is carried out
// once for each event_id.
func TestLocalApplications(t *testing.T) {
	site := lab.Sites[1]
	ns := newTank(t, site, "mqtt")
	must(t, lab.Cut(t.Context(), site))
	healed := false
	t.Cleanup(func() {
		if !healed {
			must(t, lab.Heal(context.WithoutCancel(t.Context()), site))
		}
	})
	c := mqttClient(t, site)
	h := &heard{last: map[string][]byte{}}
	device := "$hw/events/device/" + ns + "/tank/"
	data := "$ke/events/device/" + ns + "/tank/data/update"
	for _, topic := range []string{device + "#", data} {
		must(t, done(c.Subscribe(topic, 1, h.take)))
	}

	must(t, site.Slave().Write(t.Context(), levelRegister, 4321))
	var sample struct {
		Data map[string]struct {
			Value string `json:"value"`
		} `json:"data"`
	}
	var twins struct {
		Twin map[string]struct {
			Actual struct {
				Value string `json:"value"`
			} `json:"actual"`
		} `json:"twin"`
	}
	eventually(t, 20*time.Second, "the level in the twins", func(ctx context.Context) error {
		must(t, done(c.Publish(device+"twin/get", 1, false, `{"event_id":"look"}`)))
		return h.decodes(device+"twin/get/result", &twins, func() bool { return twins.Twin["level"].Actual.Value == "4321" })(ctx)
	})
	eventually(t, 20*time.Second, "the changing property among the samples", h.decodes(data, &sample, func() bool { return sample.Data["uptime"].Value != "" }))

	var result struct {
		EventID string `json:"event_id"`
		Code    int    `json:"code"`
	}
	for _, value := range []uint16{77, 78} {
		id := fmt.Sprintf("set-%d", value)
		must(t, done(c.Publish(device+"twin/update", 1, false, fmt.Sprintf(`{"event_id":%q,"twin":{"setpoint":{"expected":{"value":"%d"}}}}`, id, value))))
		eventually(t, 20*time.Second, "the register has the value", registerIs(site, setpointRegister, value))
		eventually(t, 20*time.Second, "the command is answered", h.decodes(device+"twin/update/result", &result, func() bool { return result.EventID == id && result.Code == 0 }))
	}
	// The same event again is the same command: its answer comes once more, the value does not.
	must(t, done(c.Publish(device+"twin/update", 1, false, `{"event_id":"set-77","twin":{"setpoint":{"expected":{"value":"77"}}}}`)))
	eventually(t, 20*time.Second, "the recorded answer", h.decodes(device+"twin/update/result", &result, func() bool { return result.EventID == "set-77" }))
	must(t, registerIs(site, setpointRegister, 78)(t.Context()))

	must(t, lab.Heal(t.Context(), site))
	healed = true
	eventually(t, 30*time.Second, "the cloud sees what the application set", reports(ns, "tank", "setpoint", "78"))
}

// TestCommand: a command over the plain nats command, from the hub, is carried out at the
// site and answered; the same id again gets the same answer.
func TestCommand(t *testing.T) {
	site := lab.Sites[0]
	ns := newTank(t, site, "command")
	id := fmt.Sprintf("fill-%d", time.Now().UnixNano())
	request := func(value int) (a devices.CommandResult) {
		out, err := lab.Output(t.Context(), "nats", "--context", site.Name, "req", streams.CommandSubject(site.Name, ns, "tank"),
			fmt.Sprintf(`{"id":%q,"properties":{"setpoint":"%d"}}`, id, value), "--timeout", "35s", "--raw")
		must(t, err)
		must(t, json.Unmarshal([]byte(out), &a))
		return a
	}
	first := request(501)
	if first.ID != id || first.Ack != devices.Applied || first.Repeated {
		t.Errorf("answer %+v, want %s of id %s", first, devices.Applied, id)
	}
	must(t, registerIs(site, setpointRegister, 501)(t.Context()))
	must(t, site.Slave().Write(t.Context(), setpointRegister, 502))
	if again := request(501); again.Ack != devices.Applied || !again.Repeated {
		t.Errorf("the second answer is %+v, want the first again", again)
	}
	must(t, registerIs(site, setpointRegister, 502)(t.Context()))
}
