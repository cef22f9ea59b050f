package mqtt

import (
	"encoding/json"
	"strconv"

	"github.com/petiole-io/petiole/devices"
)

// appendData appends the message of KubeEdge's topic for time series:
//
//	{"event_id":"<epoch>.<sequence>","timestamp":<ms>,"data":{"<property>":{"value":"21.5",
//	 "metadata":{"timestamp":<ms>,"quality":"good","type":"float"}}}}
//
// It does not use encoding/json because it handles every sample.
func appendData(b []byte, s *devices.Samples) []byte {
	newest := int64(0)
	for i := range s.Samples {
		newest = max(newest, s.Samples[i].Time)
	}
	b = append(b, `{"event_id":"`...)
	b = strconv.AppendInt(b, s.Epoch, 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, s.Sequence, 10)
	b = append(b, `","timestamp":`...)
	b = strconv.AppendInt(b, newest, 10)
	b = append(b, `,"data":{`...)
	for i, sample := range s.Samples {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, sample.Property)
		b = append(b, `:{"value":`...)
		b = appendText(b, sample.Value.String())
		b = append(b, `,"metadata":{"timestamp":`...)
		b = strconv.AppendInt(b, sample.Time, 10)
		b = append(b, `,"quality":`...)
		b = appendText(b, string(sample.Quality))
		b = appendField(b, "reason", sample.Reason)
		b = appendField(b, "type", typeOf(sample.Value))
		b = append(b, "}}"...)
	}
	return append(b, "}}"...)
}

func appendField(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return appendText(b, text)
}

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(s) // a string always has a JSON form
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
