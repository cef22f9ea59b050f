package push

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inbox records received messages.
type inbox struct {
	mu     sync.Mutex
	bodies []string
}

func (b *inbox) add(body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bodies = append(b.bodies, body)
}

func (b *inbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.bodies...)
}

func run(t *testing.T, queue int) *Pusher {
	t.Helper()
	p := New(Config{Queue: queue, Log: zaptest.NewLogger(t)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// offer gives the sample number n; each is a period after the one before.
func offer(p *Pusher, n int) {
	p.Offer(&devices.Samples{
		Device: devices.Ref{Namespace: "default", Name: "boiler"}, RecordNumber: devices.RecordNumber{Epoch: 1, Sequence: uint64(n)},
		Samples: []devices.Sample{{Property: "temperature", Value: devices.Float32(float32(n) + 0.5), Quality: devices.Good, Time: 1_700_000_000_000 + int64(n)*1000}},
	})
}

func body(n int) string {
	return fmt.Sprintf(`{"namespace":"default","device":"boiler","property":"temperature","value":%d.5,"quality":"good","time":%d}`, n, 1_700_000_000_000+n*1000)
}

func bodies(from, to int) (all []string) {
	for n := from; n <= to; n++ {
		all = append(all, body(n))
	}
	return all
}

func want(t *testing.T, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("received:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// hook is a web server that answers with a status.
func hook(t *testing.T, status *atomic.Int32) (*httptest.Server, *inbox) {
	t.Helper()
	received := &inbox{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/data" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"))
		}
		c := int(status.Load())
		if c < 300 {
			received.add(string(b))
		}
		w.WriteHeader(c)
	}))
	t.Cleanup(s.Close)
	return s, received
}

func httpMethod(url string) map[string]string {
	at := strings.LastIndex(url, ":")
	return map[string]string{"temperature": fmt.Sprintf(`{"http":{"hostName":%q,"port":%s,"requestPath":"/data","timeout":2000}}`, url[:at], url[at+1:])}
}

// TestWebHook posts samples in order, tries again what was not taken, and gives up what
// is refused for good.
func TestWebHook(t *testing.T) {
	var status atomic.Int32
	status.Store(http.StatusNoContent)
	server, received := hook(t, &status)
	p := run(t, 0)
	if problems := p.Apply(device(t, httpMethod(server.URL))); len(problems) > 0 {
		t.Fatal(problems)
	}
	offer(p, 1)
	offer(p, 2)
	polltest.Eventually(t, "two samples", func() bool { return len(received.all()) == 2 })
	status.Store(http.StatusServiceUnavailable)
	offer(p, 3)
	offer(p, 4)
	polltest.Eventually(t, "samples that wait", func() bool { s := p.Stats(); return s[0].Waiting == 1 && s[0].Sent == 2 })
	status.Store(http.StatusOK)
	polltest.Eventually(t, "what was not taken", func() bool { return len(received.all()) == 4 })
	want(t, received.all(), bodies(1, 4))
	status.Store(http.StatusBadRequest)
	offer(p, 5)
	polltest.Eventually(t, "a refusal", func() bool { return p.Stats()[0].Refused == 1 })
	p.Remove("default", "boiler")
	offer(p, 6)
	if s := p.Stats(); len(s) != 0 {
		t.Errorf("endpoints of no device: %v", s)
	}
}

// TestADeadEndpointHoldsUpNobody offers far more than the queue holds to a server that
// is not there: no call waits, the newest are kept and the others counted.
func TestADeadEndpointHoldsUpNobody(t *testing.T) {
	var status atomic.Int32
	status.Store(http.StatusOK)
	server, received := hook(t, &status)
	address := server.Listener.Addr().String()
	server.Close()
	p := run(t, 10)
	p.Apply(device(t, httpMethod("http://"+address)))
	offer(p, 1)
	polltest.Eventually(t, "an attempt", func() bool { return p.Stats()[0].Waiting == 0 }) // taken out, being tried
	for n := 2; n <= 2000; n++ {
		offer(p, n)
	}
	if s := p.Stats()[0]; s.Waiting != 10 || s.Dropped != 1989 || s.Sent != 0 {
		t.Errorf("stats: %+v", s)
	}
	back := httptest.NewUnstartedServer(server.Config.Handler)
	back.Listener.Close()
	var err error
	if back.Listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	back.Start()
	defer back.Close()
	polltest.Eventually(t, "the newest", func() bool { return len(received.all()) == 11 })
	want(t, received.all(), append(bodies(1, 1), bodies(1991, 2000)...))
}

// TestBroker publishes at an MQTT broker, which is nats-server, also after it was away.
func TestBroker(t *testing.T) {
	for qos := range 3 {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			broker := startBroker(t)
			line := natstest.NewLine(t, broker)
			received := &inbox{}
			subscribe(t, broker, received)
			p := run(t, 0)
			method := fmt.Sprintf(`{"mqtt":{"address":%q,"topic":"plant/boiler/t","qos":%d}}`, line.Addr(), qos)
			if problems := p.Apply(device(t, map[string]string{"temperature": method})); len(problems) > 0 {
				t.Fatal(problems)
			}
			offer(p, 1)
			offer(p, 2)
			polltest.Eventually(t, "two samples", func() bool { return len(received.all()) == 2 && p.Stats()[0].Sent == 2 })
			line.Cut()
			if qos > 0 { // with QoS 0 the first after a cut may be lost on the way
				offer(p, 3)
				offer(p, 4)
				line.Heal()
				polltest.Eventually(t, "what waited", func() bool { return len(received.all()) >= 4 })
				want(t, received.all(), bodies(1, 4))
			}
		})
	}
}

// startBroker runs nats-server with its MQTT listener and returns the listener's address.
func startBroker(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	conf := natstest.LeafConf(t, "broker", "127.0.0.1:1")
	f, err := os.OpenFile(conf, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "mqtt { listen: %q }\n", address)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	return address
}

func subscribe(t *testing.T, broker string, received *inbox) {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + broker).SetClientID("subscriber"))
	if k := c.Connect(); !k.WaitTimeout(10*time.Second) || k.Error() != nil {
		t.Fatalf("connect: %v", k.Error())
	}
	t.Cleanup(func() { c.Disconnect(100) })
	if k := c.Subscribe("plant/#", 2, func(_ mqtt.Client, m mqtt.Message) { received.add(string(m.Payload())) }); !k.WaitTimeout(10*time.Second) || k.Error() != nil {
		t.Fatalf("subscribe: %v", k.Error())
	}
}

func TestBodyIsJSON(t *testing.T) {
	s := newSchedule([]Rule{{Property: "p", Every: time.Second}}, nil)
	messages, err := s.due(&devices.Samples{Samples: []devices.Sample{{Property: "p", Quality: devices.Bad, Reason: "Timeout", Time: 1_700_000_000_000}}}, FormatJSON)
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	var b map[string]any
	if err := json.Unmarshal(messages[0].Body, &b); err != nil {
		t.Fatal(err)
	}
	if b["value"] != nil || b["reason"] != "Timeout" {
		t.Errorf("body: %s", messages[0].Body)
	}
}
