package urgent

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

func subject(site, group, resource, name string) string {
	return streams.DesiredSubject(site, streams.Ref{Group: group, Resource: resource, Namespace: "default", Name: name})
}

// TestChoose overtakes only what is urgent, small, not there yet, and behind something else.
func TestChoose(t *testing.T) {
	t.Parallel()
	config := func(seq uint64) Entry {
		return Entry{Seq: seq, Subject: subject("plant-a", "", "configmaps", fmt.Sprint("c", seq))}
	}
	pod := func(seq uint64) Entry {
		return Entry{Seq: seq, Subject: subject("plant-a", "", "pods", fmt.Sprint("p", seq))}
	}
	device := func(seq uint64) Entry {
		return Entry{Seq: seq, Subject: subject("plant-a", "devices.kubeedge.io", "devices", fmt.Sprint("d", seq))}
	}
	deleted := func(e Entry) Entry { e.Delete = true; return e }
	parts := func(e Entry) Entry { e.Parts = true; return e }
	four := []Entry{config(1), config(2), config(3), config(4)}
	for name, c := range map[string]struct {
		all  []Entry
		q    Query
		want []uint64
	}{
		"nothing":                       {nil, Query{}, nil},
		"a pod, a device, a deletion":   {append([]Entry{pod(5), device(7), deleted(config(6))}, four...), Query{}, []uint64{5, 6, 7}},
		"a ConfigMap does not overtake": {append([]Entry{config(5)}, four...), Query{}, nil},
		"nothing is ahead":              {[]Entry{pod(1), pod(2), pod(3), pod(4), pod(5), config(6)}, Query{}, nil},
		"what is ahead has arrived":     {append([]Entry{pod(5)}, four...), Query{Position: 2}, nil},
		"it has arrived":                {append([]Entry{pod(5), pod(6)}, four...), Query{After: 5}, []uint64{6}},
		"one large object is ahead":     {[]Entry{parts(config(1)), pod(2)}, Query{}, []uint64{2}},
		"a deletion of one in parts":    {append([]Entry{parts(deleted(pod(5)))}, four...), Query{}, []uint64{5}},
		"pods are not ahead of pods":    {[]Entry{config(1), pod(2), pod(3), pod(4), config(5), pod(6)}, Query{}, nil},
	} {
		var got []uint64
		for _, e := range choose(c.all, c.q) {
			got = append(got, e.Seq)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestCopy has a message return as it was, and rejects what is not a message of the site.
func TestCopy(t *testing.T) {
	t.Parallel()
	body := []byte(`{"metadata":{"name":"web","uid":"u"}}`)
	h := nats.Header{
		streams.HeaderOp: {"put"}, streams.HeaderUID: {"u"}, streams.HeaderVersion: {"7"}, streams.HeaderEpoch: {"e1"},
		streams.HeaderHash: {"h"}, "Nats-Expected-Last-Sequence": {"9"},
	}
	good := Copy(3, subject("plant-a", "", "pods", "web"), h, body)
	data, err := json.Marshal(Answer{Messages: []Message{good, Copy(4, subject("plant-a", "", "pods", "web"), nats.Header{streams.HeaderOp: {"delete"}}, nil)}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := DecodeAnswer(data)
	if err != nil || len(a.Messages) != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	m, err := a.Messages[0].Msg("plant-a")
	if err != nil || string(m.Data) != string(body) || m.Header.Get(streams.HeaderVersion) != "7" || m.Header.Get("Nats-Expected-Last-Sequence") != "" {
		t.Errorf("the copy is %+v, %v", m, err)
	}
	if m, err = a.Messages[1].Msg("plant-a"); err != nil || len(m.Data) != 0 || m.Header.Get(streams.HeaderOp) != "delete" {
		t.Errorf("the copy of a tombstone is %+v, %v", m, err)
	}
	for name, change := range map[string]func(*Message){
		"another site": func(m *Message) { m.Subject = subject("plant-b", "", "pods", "web") },
		"no sequence":  func(m *Message) { m.Seq = 0 },
		"no operation": func(m *Message) { m.Header = nil },
		"no object":    func(m *Message) { m.Object = nil },
		"parts":        func(m *Message) { m.Header = map[string]string{streams.HeaderOp: "put", streams.HeaderParts: "2"} },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Msg("plant-a"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := DecodeAnswer([]byte(`{"error":"no such request"}`)); err == nil {
		t.Error("the answer of an older bridge is none")
	}
}

// TestCollect bounds an answer, and leaves out what is gone or in parts.
func TestCollect(t *testing.T) {
	t.Parallel()
	var all []Entry
	for seq := range uint64(40) {
		resource := "pods"
		if seq < 10 {
			resource = "configmaps"
		}
		all = append(all, Entry{Seq: seq + 1, Subject: subject("plant-a", "", resource, fmt.Sprint("o", seq+1))})
	}
	read := func(e Entry) (Message, error) {
		m := Message{Seq: e.Seq, Subject: e.Subject, Header: map[string]string{streams.HeaderOp: "put"}, Object: make([]byte, 900)}
		switch e.Seq {
		case 11:
			return Message{}, nil
		case 12:
			m.Header[streams.HeaderParts] = "3"
		}
		return m, nil
	}
	for bytes, want := range map[int]int{0: 1, 500: 1, 2200: 2, 1 << 20: 8} {
		a, err := Collect(all, Query{Bytes: bytes}, read)
		if err != nil || len(a.Messages) != want || a.Messages[0].Seq != 13 {
			t.Errorf("in %d bytes: %d messages, want %d: %v", bytes, len(a.Messages), want, err)
		}
	}
}
