package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
)

// message is one of a stream.
type message struct {
	stream string
	// created is the creation time of the stream, ns since 1970.
	created  int64
	sequence uint64
	subject  string
	data     []byte
}

// rows are what messages of one stream become.
type rows struct {
	samples    []sample
	writes     []write
	gaps       []gap
	unreadable []unreadable
}

// sample is one value of a property. Device, epoch, sequence, property and time are its key.
type sample struct {
	site, namespace, name, device string
	epoch                         int64
	sequence                      uint64
	property                      string
	time                          time.Time
	// value is JSON; number is the same if it is a number, with the precision of a float64.
	value   string
	number  *float64
	quality string
	reason  string
	// clock is empty if the time is by a clock that was right; see docs/devices.md.
	clock string
}

// write is the record of an attempt to write a property.
type write struct {
	site, device string
	epoch        int64
	sequence     uint64
	time         time.Time
	record       string
}

// gap is a range of records that are missing. Stream, created and from are its key.
type gap struct {
	site, stream string
	// created is the creation time of the stream, ns since 1970.
	created  int64
	from, to uint64
	reason   string
	time     time.Time
}

// unreadable is a message that is not understood. It is kept, so that nothing is lost.
type unreadable struct {
	message
	problem string
}

// hubLimit is the reason of a gap of records that the hub's stream no longer had.
const hubLimit = "hubLimit"

// add decodes one message with the subject telemetry.<site>.<kind>.….
func (r *rows) add(m message) {
	if err := r.decode(m.subject, m.data); err != nil {
		r.unreadable = append(r.unreadable, unreadable{m, err.Error()})
	}
}

func (r *rows) decode(subject string, data []byte) error {
	tokens := strings.SplitN(subject, ".", 4)
	if len(tokens) < 4 {
		return fmt.Errorf("subject %s has no kind", subject)
	}
	switch site, kind := tokens[1], tokens[2]; kind {
	case "sample":
		return r.decodeSamples(site, data)
	case "audit":
		return r.decodeWrite(site, data)
	case "gap":
		return r.decodeGap(site, data)
	default:
		return fmt.Errorf("kind %s is not known", kind)
	}
}

// key is what names a record of a device.
type key struct {
	Device struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		UID       string `json:"uid"`
	} `json:"device"`
	Epoch    int64  `json:"epoch"`
	Sequence uint64 `json:"sequence"`
}

func (k key) check() error {
	if k.Device.UID == "" || k.Sequence == 0 || k.Sequence > math.MaxInt64 {
		return fmt.Errorf("the record has no key: device %q, sequence %d", k.Device.UID, k.Sequence)
	}
	return nil
}

func (r *rows) decodeSamples(site string, data []byte) error {
	var record struct {
		key
		Clock struct {
			State string `json:"state"`
		} `json:"clock"`
		Samples []struct {
			Property string          `json:"property"`
			Value    json.RawMessage `json:"value"`
			Quality  string          `json:"quality"`
			Reason   string          `json:"reason"`
			Time     int64           `json:"time"`
		} `json:"samples"`
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return fmt.Errorf("decode samples: %w", err)
	}
	if err := record.check(); err != nil {
		return err
	}
	for _, s := range record.Samples {
		row := sample{
			site, record.Device.Namespace, record.Device.Name, record.Device.UID, record.Epoch, record.Sequence,
			s.Property, time.UnixMilli(s.Time).UTC(), "null", nil, s.Quality, s.Reason, record.Clock.State,
		}
		if len(s.Value) > 0 {
			row.value = string(s.Value)
		}
		var number float64
		if json.Unmarshal(s.Value, &number) == nil && row.value != "null" {
			row.number = &number
		}
		r.samples = append(r.samples, row)
	}
	return nil
}

func (r *rows) decodeWrite(site string, data []byte) error {
	var record struct {
		key
		Time int64 `json:"time"`
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return fmt.Errorf("decode the record of a write: %w", err)
	}
	if err := record.check(); err != nil {
		return err
	}
	r.writes = append(r.writes, write{site, record.Device.UID, record.Epoch, record.Sequence, time.UnixMilli(record.Time).UTC(), string(data)})
	return nil
}

func (r *rows) decodeGap(site string, data []byte) error {
	var g struct {
		Stream  string    `json:"stream"`
		Created int64     `json:"created"`
		From    uint64    `json:"from"`
		To      uint64    `json:"to"`
		Reason  string    `json:"reason"`
		Time    time.Time `json:"time"`
	}
	if err := json.Unmarshal(data, &g); err != nil {
		return fmt.Errorf("decode a gap: %w", err)
	}
	if g.Stream == "" || g.From == 0 || g.To < g.From || g.To > math.MaxInt64 {
		return fmt.Errorf("a gap of stream %q from %d to %d", g.Stream, g.From, g.To)
	}
	r.gaps = append(r.gaps, gap{site, g.Stream, g.Created, g.From, g.To, g.Reason, g.Time})
	return nil
}
