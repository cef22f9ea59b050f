package push

import (
	"encoding/json"
	"net/url"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// Message is one sample for one target.
type Message struct {
	Target      Target
	Body        []byte
	ContentType string
}

// Format is the form of messages.
type Format string

// The formats.
const (
	// FormatJSON is Body as JSON.
	FormatJSON Format = "json"
	// FormatKubeEdge is what mappers of KubeEdge's framework push: text over MQTT, a form over
	// HTTP. It has no quality: only good values are pushed.
	FormatKubeEdge Format = "kubeedge"
)

// Body is the body of a message: one sample as JSON. Value is a number, a boolean, a string
// (of bytes: hexadecimal), or null if the quality is bad. Time is ms since 1970.
type Body struct {
	Namespace string          `json:"namespace"`
	Device    string          `json:"device"`
	Property  string          `json:"property"`
	Value     devices.Value   `json:"value"`
	Quality   devices.Quality `json:"quality"`
	Reason    string          `json:"reason,omitempty"`
	Time      int64           `json:"time"`
}

// schedule decides which samples of one device are due. It is not safe for concurrent use.
type schedule struct {
	rules map[string][]*entry // by property
}

// entry is a rule and when it is due again, in ms since 1970.
type entry struct {
	Rule
	next    int64
	quality devices.Quality
}

// newSchedule returns a schedule that keeps the due times of an earlier one for equal rules, so
// that a change of the device does not push everything at once.
func newSchedule(rules []Rule, earlier *schedule) *schedule {
	s := &schedule{rules: map[string][]*entry{}}
	for _, r := range rules {
		t := &entry{Rule: r}
		if earlier != nil {
			for _, was := range earlier.rules[r.Property] {
				if was.Rule == r {
					t = was
				}
			}
		}
		s.rules[r.Property] = append(s.rules[r.Property], t)
	}
	return s
}

// kubeEdgeMessage returns the message of a good value in KubeEdge's format. Its time is that of
// the gateway's clock, to the second.
func kubeEdgeMessage(t Target, sample devices.Sample) Message {
	at, text := time.UnixMilli(sample.Time).Format(time.DateTime), sample.Value.String()
	if t.URL != "" {
		return Message{t, []byte(sample.Property + "=" + url.QueryEscape(text) + "&time=" + at), "application/x-www-form-urlencoded"}
	}
	return Message{Target: t, Body: []byte("time is " + at + "  " + t.Topic + ": " + text)}
}

// due returns the messages that are due for a batch of samples.
func (s *schedule) due(b *devices.Samples, format Format) ([]Message, error) {
	var out []Message
	for _, sample := range b.Samples {
		var body []byte
		for _, t := range s.rules[sample.Property] {
			if !t.due(sample) {
				continue
			}
			if format == FormatKubeEdge {
				if sample.Quality == devices.Good {
					out = append(out, kubeEdgeMessage(t.Target, sample))
				}
				continue
			}
			if body == nil {
				var err error
				body, err = json.Marshal(Body{
					Namespace: b.Device.Namespace, Device: b.Device.Name, Property: sample.Property, Value: sample.Value,
					Quality: sample.Quality, Reason: sample.Reason, Time: sample.Time,
				})
				if err != nil {
					return out, err
				}
			}
			out = append(out, Message{t.Target, body, "application/json"})
		}
	}
	return out, nil
}

// due reports whether a sample is due, and schedules the next one. Periods are kept on
// average: since reading is never exactly periodic, a sample may be early by a tenth of the
// period. A clock that was set back starts a new period.
func (t *entry) due(s devices.Sample) bool {
	every := t.Every.Milliseconds()
	early := t.next - s.Time
	if t.quality == s.Quality && early > every/10 && early <= 2*every {
		return false
	}
	t.quality = s.Quality
	t.next += every
	if t.next <= s.Time || t.next > s.Time+2*every {
		t.next = s.Time + every
	}
	return true
}
