package field

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// newDeployedRig returns a rig whose server uses deploy/leaf/leaf.conf.tmpl, with users and an
// MQTT listener. broker returns the options of the application.
func newDeployedRig(t *testing.T) (r *rig, broker func() *mqtt.ClientOptions) {
	t.Helper()
	dir := t.TempDir()
	l := fabric.Leaf{
		Site: "plant-a", Listen: "127.0.0.1:-1", MQTT: porttest.Addr(t), LeafUser: true, Store: filepath.Join(dir, "js"),
		URL: "nats-leaf://127.0.0.1:1", SeedFile: filepath.Join(dir, "leaf.nk"),
	}
	conf := filepath.Join(dir, "leaf.conf")
	if _, err := credential.Seed(l.SeedFile); err != nil {
		t.Fatal(err)
	}
	if err := fabric.RepoTemplates("../..").WriteLeaf(conf, l); err != nil {
		t.Fatal(err)
	}
	password := func(user string) string {
		p, err := credential.ReadPassword(filepath.Join(fabric.UsersDir(conf), user+".conf"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	s := startServer(t, conf)
	js := s.connect(t, s.ClientURL(), nats.UserInfo(fabric.UserLeaf, password(fabric.UserLeaf)))
	if err := streams.Ensure(t.Context(), js, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Fatal(err)
	}
	account, err := s.LookupAccount("SITE")
	if err != nil {
		t.Fatal(err)
	}
	r = newRigWith(t, js)
	r.interest = account.SubscriptionInterest
	return r, func() *mqtt.ClientOptions {
		return mqtt.NewClientOptions().AddBroker("tcp://" + l.MQTT).SetUsername(fabric.UserApplication).SetPassword(password(fabric.UserApplication))
	}
}

// application is a program at the site with an MQTT library of others.
type application struct {
	t        *testing.T
	client   mqtt.Client
	mu       sync.Mutex
	received map[string][]string // by topic
}

func connectApplication(t *testing.T, broker func() *mqtt.ClientOptions) *application {
	t.Helper()
	return connectApplicationAs(t, broker, "app")
}

func connectApplicationAs(t *testing.T, broker func() *mqtt.ClientOptions, id string) *application {
	t.Helper()
	a := &application{t: t, received: map[string][]string{}}
	a.client = mqtt.NewClient(broker().SetClientID(id))
	a.await(a.client.Connect())
	t.Cleanup(func() { a.client.Disconnect(100) })
	return a
}

func (a *application) await(k mqtt.Token) {
	a.t.Helper()
	if !k.WaitTimeout(10*time.Second) || k.Error() != nil {
		a.t.Fatalf("MQTT: %v", k.Error())
	}
}

func (a *application) subscribe(filter string, qos byte) {
	a.t.Helper()
	k := a.client.Subscribe(filter, qos, func(_ mqtt.Client, m mqtt.Message) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.received[m.Topic()] = append(a.received[m.Topic()], string(m.Payload()))
	})
	a.await(k)
	if granted := k.(*mqtt.SubscribeToken).Result()[filter]; granted > 2 {
		a.t.Fatalf("subscription to %s: refused", filter)
	}
}

func (a *application) publish(topic, payload string) {
	a.t.Helper()
	a.await(a.client.Publish(topic, 1, false, payload))
}

// got returns the newest payload of a topic that contains all texts, empty if there is none.
func (a *application) got(topic string, texts ...string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.received[topic]
next:
	for i := len(all) - 1; i >= 0; i-- {
		for _, text := range texts {
			if !strings.Contains(all[i], text) {
				continue next
			}
		}
		return all[i]
	}
	return ""
}

func (r *rig) receives(a *application, topic string, texts ...string) string {
	r.t.Helper()
	r.eventually(fmt.Sprint(topic, " with ", texts), func() bool { return a.got(topic, texts...) != "" })
	return a.got(topic, texts...)
}

// TestApplicationOverMQTT uses KubeEdge's topics through the MQTT listener of nats-server.
func TestApplicationOverMQTT(t *testing.T) {
	t.Parallel()
	r, broker := newDeployedRig(t)
	a := connectApplication(t, broker)
	for _, filter := range []string{"$hw/events/#", "$ke/events/device/+/+/data/update", "local/telemetry/sample/#"} {
		a.subscribe(filter, 1)
	}
	_, stop := r.run()
	defer stop()
	r.model()
	r.device("1", "7")
	r.deviceAt("plant-a-1", "pump.south", "1", `"reportCycle":0`)
	r.deviceAt("plant-a-2", "other", "1", `"reportCycle":0`)
	const events = "$hw/events/device/default/"

	r.receives(a, "$ke/events/device/default/pump/data/update", `"setpoint":{"value":"7","metadata":{"timestamp":`, `"quality":"good","type":"int"`)
	r.receives(a, "local/telemetry/sample/default/pump", `"property":"setpoint","value":7,"quality":"good"`)
	r.receives(a, events+"pump/state/update/result", `"id":"default/pump"`, `"state":"online"`)
	r.receives(a, "$hw/events/node/plant-a-1/membership/updated", `"added_devices":[{"id":"default/pump.south"`)

	a.publish(events+"pump/twin/get", `{"event_id":"1"}`)
	r.receives(a, events+"pump/twin/get/result", `"event_id":"1"`, `"expected":{"value":"7"}`, `"actual":{"value":"7","metadata":{"timestamp":`, `"metadata":{"type":"int"}`)
	a.publish(events+"pump.south/state/get", ``) // a name with a dot
	r.receives(a, events+"pump.south/state/get/result", `"name":"pump.south"`)
	a.publish("$hw/events/node/plant-a-1/membership/get", `{"event_id":"2"}`)
	r.receives(a, "$hw/events/node/plant-a-1/membership/get/result", `"event_id":"2"`, `"devices":[{"id":"default/pump","name":"pump","state":"online"`)

	a.publish(events+"pump/twin/update", `{"event_id":"3","twin":{"setpoint":{"expected":{"value":"11"}}}}`)
	r.receives(a, events+"pump/twin/update/result", `"event_id":"3"`, `"twin":{"setpoint":{"actual":{"value":"11"`)
	r.receives(a, events+"pump/twin/update/document", `"last":{`, `"current":{`, `"value":"11"`)
	a.publish(events+"pump/twin/update", `{"event_id":"3","twin":{"setpoint":{"expected":{"value":"11"}}}}`) // delivered again
	r.receives(a, events+"pump/twin/update/result", `"event_id":"3"`)
	for id, c := range map[string][2]string{
		"pump/twin/update":  {`{"event_id":"4","twin":{"setpoint":{"expected":{"value":"5000"}}}}`, `"code":400`},
		"ghost/twin/update": {`{"event_id":"5","twin":{"setpoint":{"expected":{"value":"1"}}}}`, `"code":404`},
		"ghost/twin/get":    {`{"event_id":"6"}`, `"code":404`},
		"pump/state/update": {`{"event_id":"7","state":"offline"}`, `"code":400`},
	} {
		a.publish(events+id, c[0])
		r.receives(a, events+id+"/result", c[1], c[0][:len(`{"event_id":"4"`)])
	}
	for _, body := range []string{`{"event_id":"8","twin":{"setpoint":{"actual":{"value":"5"}}}}`, `{"event_id":"8","twin":{"setpoint":{}}}`, `{`} {
		a.publish(events+"pump/twin/update", body)
	}
	r.receives(a, events+"pump/twin/update/result", `"code":400`, "twin.actual: the values of the device come from the driver")
	r.receives(a, events+"pump/twin/update/result", `"code":400`, "twin.setpoint has neither expected.value nor actual.value")
	r.receives(a, events+"pump/twin/update/result", `"code":400`, "read the payload")
	a.publish(events+"pump/twin/update", `{"twin":{"setpoint":{"expected":{"value":"13"}}}}`) // as KubeEdge's SDK writes it
	r.receives(a, events+"pump/twin/update/result", `"event_id":""`, `"twin":{"setpoint":{"actual":{"value":"13"`)
	r.device("2", "12")
	r.receives(a, events+"pump/twin/update/delta", `"delta":{"setpoint":"12"}`)
	r.eventually("written", func() bool { return r.slave.written() == "[7 11 13 12]" })
	// Requests that are not commands are answered in order.
	a.publish(events+"other/state/get", `{"event_id":"9"}`)
	a.publish(events+"pump/state/get", `{"event_id":"10"}`)
	r.receives(a, events+"pump/state/get/result", `"event_id":"10"`)
	if got := a.got(events+"other/state/get/result", ""); got != "" {
		t.Errorf("a device of another node was answered for: %s", got)
	}
}

// TestMapperOverMQTT operates a device as a mapper of KubeEdge that knows MQTT only: it reports
// actual values and states, and gets desired values as deltas.
func TestMapperOverMQTT(t *testing.T) {
	t.Parallel()
	r, broker := newDeployedRig(t)
	m := connectApplication(t, broker)
	m.subscribe("$hw/events/#", 1)
	server := dmi.New(dmi.Config{Socket: filepath.Join(t.TempDir(), "dmi.sock"), Log: zaptest.NewLogger(t)})
	serving, stopServing := context.WithCancel(r.ctx)
	served := make(chan error, 1)
	go func() { served <- server.Run(serving) }()
	defer func() {
		stopServing()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	r.drivers, r.mappers = append(r.drivers, server), dmi.NewRemote(server)
	_, stop := r.run()
	defer stop()
	r.model()
	lamp := func(version, property string) {
		r.put(streams.Ref{Node: "plant-a-1", Group: v1beta1.GroupName, Resource: "devices", Namespace: "default", Name: "lamp"}, version,
			`{"metadata":{"namespace":"default","name":"lamp"},"spec":{"deviceModelRef":{"name":"pump"},"nodeName":"plant-a-1",
			"protocol":{"protocolName":"bluetooth"},"properties":[{"name":"setpoint","collectCycle":20,"reportToCloud":true`+property+`}]}}`)
	}
	lamp("1", "")
	const topics = "$hw/events/device/default/lamp/"
	r.receives(m, topics+"state/update/result", `"state":"offline"`)

	// As CreateMessageTwinUpdate of KubeEdge's SDK writes it.
	m.publish(topics+"twin/update", `{"event_id":"","timestamp":0,"twin":{"setpoint":{"actual":{"value":"7"},"metadata":{"type":"Updated"}}}}`)
	r.receives(m, topics+"twin/update/result", `"twin":{"setpoint":{"actual":{"value":"7"`)
	r.receives(m, topics+"state/update/result", `"state":"online"`)
	r.receives(m, topics+"twin/update/document", `"current":{"actual":{"value":"7"`)
	m.publish(topics+"twin/update", `{"event_id":"1","twin":{"nothing":{"actual":{"value":"7"}}}}`)
	r.receives(m, topics+"twin/update/result", `"event_id":"1"`, `"code":400`, "has no valid property")

	lamp("2", `,"desired":{"value":"5000"}`) // above the maximum
	lamp("3", `,"desired":{"value":"12"}`)
	r.receives(m, topics+"twin/update/delta", `"expected":{"value":"12"`, `"delta":{"setpoint":"12"}`)
	m.publish(topics+"twin/update", `{"event_id":"2","twin":{"setpoint":{"actual":{"value":"12","metadata":{"timestamp":`+fmt.Sprint(time.Now().UnixMilli())+`}}}}}`)
	r.eventually("applied", func() bool { return r.ack("lamp") == devices.Applied })
	if got := m.got(topics+"twin/update/delta", "5000"); got != "" {
		t.Errorf("the mapper got a value that was rejected: %s", got)
	}

	m.publish(topics+"state/update", `{"event_id":"3","state":"offline"}`)
	r.receives(m, topics+"state/update/result", `"event_id":"3"`, `"state":"offline"`)
	m.publish(topics+"state/get", `{"event_id":"4"}`)
	r.receives(m, topics+"state/update/result", `"event_id":""`, `"state":"offline"`)
	m.publish(topics+"state/update", `{"event_id":"5"}`)
	r.receives(m, topics+"state/update/result", `"event_id":"5"`, `"code":400`, "state is empty")
}

// ack returns the ack of a device's setpoint in the newest DeviceStatus of SITE_REPORTED.
func (r *rig) ack(device string) devices.Ack {
	for _, twin := range r.status(device).Status.Twins {
		if twin.PropertyName == "setpoint" && twin.ObservedDesired != nil {
			return devices.Ack(twin.ObservedDesired.Metadata["ack"])
		}
	}
	return ""
}

// TestApplicationPermissions publishes and subscribes as an application without permission.
func TestApplicationPermissions(t *testing.T) {
	t.Parallel()
	r, broker := newDeployedRig(t)
	a := connectApplication(t, broker)
	before := r.messages(streams.SiteDesired) + r.messages(streams.SiteTelemetry) + r.messages(streams.SiteReported)
	for _, topic := range []string{
		"desired/plant-a/_/_/pods/default/x", "local/telemetry/sample/default/x", "local/reported/_/_/pods/default/x",
		"$JS/API/STREAM/DELETE/SITE_TELEMETRY", "command/plant-a/default/pump",
	} {
		a.publish(topic, `{}`)
	}
	for _, topic := range []string{"app/alarm", "temp", "plant/line.1/press", "SYS/dis/upload_records", "plant-a-1/user/x"} { // applications may exchange messages
		for qos := range byte(3) {
			topic := fmt.Sprint(topic, "/", qos)
			a.subscribe(topic+"/#", qos)
			a.await(a.client.Publish(topic, qos, false, "on"))
			r.receives(a, topic, "on")
		}
	}
	all := connectApplicationAs(t, broker, "all")
	all.subscribe("#", 1)
	a.publish("temp", "21.5")
	r.receives(all, "temp", "21.5")
	for _, topic := range []string{"$hw/events/device/default/pump/twin/get/result", "$ke/events/device/default/pump/data/update", "telemetry/plant-a/sample/default/pump"} {
		a.subscribe(topic, 0)
		a.publish(topic, "forged")
		a.publish("temp/after", topic)
		r.receives(all, "temp/after", topic)
		if got := a.got(topic, "forged"); got != "" {
			t.Errorf("an application publishes on %s as if it were the leaf", topic)
		}
	}
	if after := r.messages(streams.SiteDesired) + r.messages(streams.SiteTelemetry) + r.messages(streams.SiteReported); after != before {
		t.Errorf("%d messages were stored", after-before)
	}
	for user, password := range map[string]string{"": "", fabric.UserApplication: "", fabric.UserLeaf: ""} {
		intruder := mqtt.NewClient(broker().SetClientID("intruder").SetUsername(user).SetPassword(password))
		if k := intruder.Connect(); k.WaitTimeout(10*time.Second) && k.Error() == nil {
			intruder.Disconnect(0)
			t.Errorf("%q is let in without a password", user)
		}
	}
	if k := a.client.Subscribe("desired/#", 0, nil); k.WaitTimeout(10*time.Second) && k.(*mqtt.SubscribeToken).Result()["desired/#"] <= 2 {
		t.Error("an application may read what is desired")
	}
}

func (r *rig) messages(stream string) uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// TestPushMethods posts samples to a web server, and reports an unsupported push method in an
// Event.
func TestPushMethods(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 1024)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		bodies <- string(b)
	}))
	defer hook.Close()
	host, port, err := net.SplitHostPort(hook.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	f, stop := r.run()
	defer stop()
	r.model()
	r.deviceAt("plant-a-1", "pump", "1", fmt.Sprintf(
		`"reportCycle":100,"pushMethod":{"http":{"hostName":%q,"port":%s,"requestPath":"/x"},"otel":{"endpointURL":"http://x"}}`, host, port))
	for range 3 {
		var body struct {
			Device, Property, Quality string
			Value                     *int
		}
		if err := json.Unmarshal([]byte(<-bodies), &body); err != nil || body.Device != "pump" || body.Property != "setpoint" || body.Quality != "good" || body.Value == nil {
			t.Errorf("pushed: %+v; %v", body, err)
		}
	}
	r.eventually("counters", func() bool { s := f.Stats(); return len(s.Push) == 1 && s.Push[0].Sent >= 3 && s.Records >= 3 })
	stream, err := r.js.Stream(r.ctx, streams.SiteReported)
	if err != nil {
		t.Fatal(err)
	}
	events := 0
	for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.ctx, seq)
		if err == nil && strings.Contains(string(m.Data), "PushMethodNotSupported") && strings.Contains(string(m.Data), "consumer of the stream TELEMETRY") {
			events++
		}
	}
	if events != 1 {
		t.Errorf("%d events about the push method that is not followed, want 1", events)
	}
}
