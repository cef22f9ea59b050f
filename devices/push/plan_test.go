package push

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// device is a boiler whose properties have the push methods, given as JSON by property.
func device(t *testing.T, methods map[string]string) *v1beta1.Device {
	t.Helper()
	d := &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "boiler"}}
	for name, method := range methods {
		p := v1beta1.DeviceProperty{Name: name, ReportCycle: 500, PushMethod: &v1beta1.PushMethod{}}
		if err := json.Unmarshal([]byte(method), p.PushMethod); err != nil {
			t.Fatal(err)
		}
		d.Spec.Properties = append(d.Spec.Properties, p)
	}
	return d
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		method, want, problem string
	}{
		{
			`{"http":{"hostName":"10.0.0.5","port":8080,"requestPath":"/data","timeout":300}}`,
			`{http://10.0.0.5:8080 http://10.0.0.5:8080/data 300ms  0 false}`, "",
		},
		{
			`{"http":{"hostName":"http://10.0.0.5","port":8080,"requestPath":"data?site=a"}}`,
			`{http://10.0.0.5:8080 http://10.0.0.5:8080/data?site=a 5s  0 false}`, "",
		},
		{
			`{"http":{"hostName":"https://historian.plant.example/"}}`,
			`{https://historian.plant.example https://historian.plant.example/ 5s  0 false}`, "",
		},
		{
			`{"mqtt":{"address":"10.0.0.6:1884","topic":"plant/boiler","qos":1,"retained":true}}`,
			`{tcp://10.0.0.6:1884  5s plant/boiler 1 true}`, "",
		},
		{`{"mqtt":{"address":"ssl://broker","topic":"t"}}`, `{ssl://broker:8883  5s t 0 false}`, ""},
		{`{}`, "", ""},
		{`{"http":{"port":80}}`, "", "hostName is empty"},
		{`{"http":{"hostName":"ftp://x"}}`, "", "neither http nor https"},
		{`{"http":{"hostName":"x","port":70000}}`, "", "port 70000"},
		{`{"http":{"hostName":"x","timeout":600000}}`, "", "timeout 600000"},
		{`{"http":{"hostName":"x/y"}}`, "", "is not a host name"},
		{`{"mqtt":{"topic":"t"}}`, "", "address is empty"},
		{`{"mqtt":{"address":"x","topic":"a/#"}}`, "", "wildcards"},
		{`{"mqtt":{"address":"x","topic":"t","qos":3}}`, "", "qos 3"},
		{`{"mqtt":{"address":"amqp://x","topic":"t"}}`, "", `scheme "amqp"`},
		{`{"dbMethod":{"redis":{"redisClientConfig":{"addr":"x:6379"}}}}`, "", "dbMethod is not supported: use a durable consumer of the stream TELEMETRY_<site> instead"},
		{`{"otel":{"endpointURL":"http://x"}}`, "", "otel is not supported: use a durable consumer of the stream TELEMETRY_<site> instead"},
		{`{"anomalyDetection":{"a":1}}`, "", "anomalyDetection is not supported"},
	} {
		rules, problems := Plan(device(t, map[string]string{"temperature": c.method}))
		switch {
		case c.problem != "" && (len(rules) != 0 || len(problems) != 1 || !strings.Contains(problems[0].Message, c.problem) || problems[0].Property != "temperature"):
			t.Errorf("%s: rules %v, problems %v; want a problem about %q", c.method, rules, problems, c.problem)
		case c.problem == "" && len(problems) != 0:
			t.Errorf("%s: problems %v", c.method, problems)
		case c.want == "" && len(rules) != 0:
			t.Errorf("%s: rules %v, want none", c.method, rules)
		case c.want != "" && (len(rules) != 1 || fmt.Sprint(rules[0].Target) != c.want || rules[0].Every != 500*time.Millisecond):
			t.Errorf("%s: rules %v; want target %s every 500ms", c.method, rules, c.want)
		}
	}
}

// TestSchedule gives samples at times and tells which are due.
func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		name        string
		every       time.Duration
		times, want []int64
		bad         int64
	}{
		{"as fast as read", time.Second, []int64{0, 990, 2010, 2990, 4005}, []int64{0, 990, 2010, 2990, 4005}, -1},
		{"slower than read", time.Second, []int64{0, 400, 800, 1200, 1600, 2000, 2400, 2800, 3200}, []int64{0, 1200, 2000, 3200}, -1},
		{"after a gap no burst", time.Second, []int64{0, 10000, 10400, 10800, 11000}, []int64{0, 10000, 11000}, -1},
		{"clock set back", time.Second, []int64{100000, 100400, 5000, 5400, 6000}, []int64{100000, 5000, 6000}, -1},
		{"quality at once", time.Second, []int64{0, 100, 200, 300, 1100}, []int64{0, 200, 300}, 200},
	} {
		s := newSchedule([]Rule{{Property: "p", Every: c.every}}, nil)
		var got []int64
		for _, at := range c.times {
			quality := devices.Good
			if at == c.bad {
				quality = devices.Bad
			}
			// Times of tests are small; the first turn is due at any real time.
			const day = 86_400_000
			messages, err := s.due(&devices.Samples{Samples: []devices.Sample{{Property: "p", Quality: quality, Time: day + at}, {Property: "other", Time: day + at}}}, FormatJSON)
			if err != nil {
				t.Fatal(err)
			}
			if len(messages) == 1 {
				got = append(got, at)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: pushed at %v, want %v", c.name, got, c.want)
		}
	}
}

// TestKubeEdgeFormat: the messages are those of KubeEdge's mapper framework, of good values.
func TestKubeEdgeFormat(t *testing.T) {
	const at = 1_700_000_000_000
	clock := time.UnixMilli(at).Format("2006-01-02 15:04:05")
	s := newSchedule([]Rule{
		{Property: "p", Every: time.Second, Target: Target{Endpoint: "http://h:80", URL: "http://h:80/x"}},
		{Property: "p", Every: time.Second, Target: Target{Endpoint: "tcp://b:1883", Topic: "temp"}},
	}, nil)
	messages, err := s.due(&devices.Samples{Samples: []devices.Sample{
		{Property: "p", Quality: devices.Bad, Reason: "Timeout", Time: at - 5000},
		{Property: "p", Quality: devices.Good, Value: devices.Float(21.5), Time: at},
	}}, FormatKubeEdge)
	if err != nil || len(messages) != 2 {
		t.Fatalf("%v, %v", messages, err)
	}
	for i, want := range []string{"p=21.5&time=" + clock, "time is " + clock + "  temp: 21.5"} {
		if got := string(messages[i].Body); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := messages[0].ContentType; got != "application/x-www-form-urlencoded" {
		t.Errorf("content type %s", got)
	}
	text := kubeEdgeMessage(Target{URL: "http://h"}, devices.Sample{Property: "p", Value: devices.String("a&time=1"), Time: at})
	if got := string(text.Body); got != "p=a%26time%3D1&time="+clock {
		t.Errorf("a value is taken for a field: %s", got)
	}
}
