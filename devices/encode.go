package devices

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// AppendJSON appends the record in the form of encoding/json, and returns the extended buffer. It
// is for gateways with many samples: encoding/json takes several times as long and allocates for
// each value.
func (s *Samples) AppendJSON(b []byte) ([]byte, error) {
	b = append(b, `{"device":`...)
	b = s.Device.appendJSON(b)
	if s.Node != "" {
		b = appendText(append(b, `,"node":`...), s.Node)
	}
	b = strconv.AppendInt(append(b, `,"epoch":`...), s.Epoch, 10)
	b = strconv.AppendUint(append(b, `,"sequence":`...), s.Sequence, 10)
	if s.Clock != nil {
		mark, err := json.Marshal(s.Clock)
		if err != nil {
			return nil, fmt.Errorf("encode clock mark: %w", err)
		}
		b = append(append(b, `,"clock":`...), mark...)
	}
	if s.Dropped != 0 {
		b = strconv.AppendUint(append(b, `,"dropped":`...), s.Dropped, 10)
	}
	if s.Samples == nil {
		return append(b, `,"samples":null}`...), nil
	}
	b = append(b, `,"samples":[`...)
	for i := range s.Samples {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.Samples[i].appendJSON(b)
	}
	return append(b, "]}"...), nil
}

func (r Ref) appendJSON(b []byte) []byte {
	b = appendText(append(b, `{"namespace":`...), r.Namespace)
	b = appendText(append(b, `,"name":`...), r.Name)
	if r.UID != "" {
		b = appendText(append(b, `,"uid":`...), r.UID)
	}
	return append(b, '}')
}

func (s *Sample) appendJSON(b []byte) []byte {
	b = appendText(append(b, `{"property":`...), s.Property)
	b = s.Value.appendJSON(append(b, `,"value":`...))
	b = appendText(append(b, `,"quality":`...), string(s.Quality))
	if s.Reason != "" {
		b = appendText(append(b, `,"reason":`...), s.Reason)
	}
	b = strconv.AppendInt(append(b, `,"time":`...), s.Time, 10)
	return append(b, '}')
}

// appendText appends a JSON string as encoding/json escapes it.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string cannot fail
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
