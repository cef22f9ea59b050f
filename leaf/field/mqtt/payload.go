package mqtt

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// The payloads are KubeEdge's, with quality and reason beside the timestamp of an actual
// value. Timestamps are ms since 1970.
type (
	header struct {
		EventID   string `json:"event_id"`
		Timestamp int64  `json:"timestamp"`
	}
	failure struct {
		header
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	}
	twinMessage struct {
		header
		Twin map[string]*twin `json:"twin"`
	}
	deltaMessage struct {
		twinMessage
		Delta map[string]string `json:"delta"`
	}
	documentMessage struct {
		header
		Twin map[string]change `json:"twin"`
	}
	stateMessage struct {
		header
		Device deviceState `json:"device"`
	}
	membershipMessage struct {
		header
		Devices []deviceState `json:"devices"`
	}
	membershipUpdate struct {
		header
		Added   []deviceState `json:"added_devices"`
		Removed []deviceState `json:"removed_devices"`
	}

	twin struct {
		Expected *value    `json:"expected,omitempty"`
		Actual   *value    `json:"actual,omitempty"`
		Metadata *typeInfo `json:"metadata,omitempty"`
	}
	value struct {
		Value    *string    `json:"value,omitempty"`
		Metadata *valueInfo `json:"metadata,omitempty"`
	}
	valueInfo struct {
		Timestamp int64           `json:"timestamp,omitempty"`
		Quality   devices.Quality `json:"quality,omitempty"`
		Reason    string          `json:"reason,omitempty"`
	}
	typeInfo struct {
		Type string `json:"type,omitempty"`
	}
	change struct {
		Last    *twin `json:"last"`
		Current *twin `json:"current"`
	}
	deviceState struct {
		ID          string `json:"id,omitempty"` // namespace/name
		Name        string `json:"name"`
		Description string `json:"description,omitempty"`
		State       string `json:"state,omitempty"`
		LastOnline  string `json:"last_online,omitempty"`
	}
)

// The error codes, which are those of HTTP.
const (
	badRequest  = 400
	notFound    = 404
	conflict    = 409
	serverError = 500
)

func newHeader(eventID string) header {
	return header{EventID: eventID, Timestamp: time.Now().UnixMilli()}
}

// readHeader decodes the header of a request. An empty payload has an empty header.
func readHeader(payload []byte) (header, error) {
	var h header
	if len(payload) == 0 {
		return h, nil
	}
	if err := json.Unmarshal(payload, &h); err != nil {
		return h, fmt.Errorf("read the payload: %w", err)
	}
	return h, nil
}

// update is what an application wants to set, and what one that is a mapper reports.
type update struct {
	eventID  string
	expected map[string]string
	actual   map[string]devices.ReportedValue
}

// readUpdate decodes an update. Without an event_id it has one of its own, as KubeEdge's SDK
// sends none: it is carried out each time it is delivered.
func readUpdate(payload []byte) (update, error) {
	var m twinMessage
	if err := json.Unmarshal(payload, &m); err != nil {
		return update{}, fmt.Errorf("read the payload: %w", err)
	}
	u := update{eventID: m.EventID, expected: map[string]string{}, actual: map[string]devices.ReportedValue{}}
	if len(m.Twin) == 0 {
		return u, errors.New("twin is empty: nothing to set")
	}
	for name, t := range m.Twin {
		if t == nil {
			return u, fmt.Errorf("twin.%s is null: an application cannot remove a property of the Device", name)
		}
		hasExpected, hasActual := t.Expected != nil && t.Expected.Value != nil, t.Actual != nil && t.Actual.Value != nil
		if !hasExpected && !hasActual {
			return u, fmt.Errorf("twin.%s has neither expected.value nor actual.value", name)
		}
		if hasExpected {
			u.expected[name] = *t.Expected.Value
		}
		if hasActual {
			u.actual[name] = reportedValue(t.Actual)
		}
	}
	return u, nil
}

func reportedValue(v *value) devices.ReportedValue {
	r := devices.ReportedValue{Text: *v.Value}
	if i := v.Metadata; i != nil {
		r.Quality, r.Reason = i.Quality, i.Reason
		if i.Timestamp > 0 {
			r.Time = time.UnixMilli(i.Timestamp)
		}
	}
	return r
}

// reportedState is the state that a mapper reports.
type reportedState struct {
	header
	State string `json:"state"`
}

// typeOf returns KubeEdge's name of a value's type, empty if there is no value.
func typeOf(v devices.Value) string {
	switch v.Kind() {
	case devices.KindBool:
		return "boolean"
	case devices.KindInt, devices.KindUint:
		return "int"
	case devices.KindFloat32:
		return "float"
	case devices.KindFloat:
		return "double"
	case devices.KindString:
		return "string"
	case devices.KindBytes:
		return "bytes"
	default:
		return ""
	}
}

// expectedOf returns the desired value of each property of the Device.
func expectedOf(d *v1beta1.Device) map[string]*value {
	all := map[string]*value{}
	for _, p := range d.Spec.Properties {
		if p.Desired == nil || p.Desired.Value == "" {
			continue
		}
		v := &value{Value: &p.Desired.Value}
		if at, err := strconv.ParseInt(p.Desired.Metadata["timestamp"], 10, 64); err == nil {
			v.Metadata = &valueInfo{Timestamp: at}
		}
		all[p.Name] = v
	}
	return all
}
