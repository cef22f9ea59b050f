package streams

import (
	"strings"
	"testing"
)

func FuzzEscapeToken(f *testing.F) {
	for _, s := range []string{"", "_", "default", "kube-root-ca.crt", "a~b", "a=2Eb", "system:node:x", "日本", "a b*>c", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := EscapeToken(s)
		if e == "" || strings.ContainsAny(e, ". *>\t\r\n\x00") {
			t.Fatalf("EscapeToken(%q) = %q is not one token", s, e)
		}
		back, err := UnescapeToken(e)
		if err != nil || back != s {
			t.Fatalf("UnescapeToken(%q) = %q, %v; want %q", e, back, err, s)
		}
	})
}

func FuzzParseDesired(f *testing.F) {
	f.Add("desired.plant-a.node-1.devices~kubeedge~io.devices.default.pump")
	f.Add("desired.plant-a._._.configmaps.default.kube-root-ca~crt")
	f.Add("desired.a.b")
	f.Fuzz(func(t *testing.T, subject string) {
		site, r, err := ParseDesired(subject)
		if err != nil {
			return
		}
		if got := DesiredSubject(site, r); got != subject {
			t.Fatalf("ParseDesired(%q) = %q %+v, whose subject is %q", subject, site, r, got)
		}
	})
}

func TestSubjectsAreReadable(t *testing.T) {
	r := Ref{Node: "plant-a-1", Group: "devices.kubeedge.io", Resource: "devices", Namespace: "default", Name: "pump.1"}
	if got, want := DesiredSubject("plant-a", r), "desired.plant-a.plant-a-1.devices~kubeedge~io.devices.default.pump~1"; got != want {
		t.Errorf("DesiredSubject = %q, want %q", got, want)
	}
	got, err := ForwardSubject("plant-a", LocalReportedSubject(r))
	if want := ReportedSubject("plant-a", r); err != nil || got != want {
		t.Errorf("ForwardSubject = %q, %v; want %q", got, err, want)
	}
	got, err = ForwardSubject("plant-a", LocalTelemetrySubject("sample", "default", "pump.1"))
	if want := TelemetrySubject("plant-a", "sample", "default", "pump.1"); err != nil || got != want {
		t.Errorf("ForwardSubject = %q, %v; want %q", got, err, want)
	}
}

func TestUnescapeRefusesASecondForm(t *testing.T) {
	for _, token := range []string{"=61", "=2E", "=5f", "a=", "a=2", "=ZZ", "", "a.b"} {
		if s, err := UnescapeToken(token); err == nil {
			t.Errorf("UnescapeToken(%q) = %q, want an error", token, s)
		}
	}
}
