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

// FuzzSubjects checks that the encoder returns every subject that its decoder accepts.
func FuzzSubjects(f *testing.F) {
	for _, s := range []string{
		"desired.plant-a.node-1.devices~kubeedge~io.devices.default.pump", "desired.plant-a._._.configmaps.default.kube-root-ca~crt", "desired.a.b",
		"reported.plant-a.node-1._.pods.default.web",
	} {
		f.Add(s)
	}
	for _, s := range []string{
		ReportedSubject("a", Ref{Resource: "pods", Name: "x"}), LocalReportedSubject(Ref{Resource: "pods", Name: "x"}),
		PresenceSubject("a.b"), RequestSubject("a", "token"), CommandSubject("a", "default", "p"),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		for _, made := range remade(subject) {
			if made != subject {
				t.Fatalf("%q is read as what %q names", subject, made)
			}
		}
	})
}

// remade returns the subjects that the encoders build from what the decoders read.
func remade(subject string) (out []string) {
	if site, r, err := ParseDesired(subject); err == nil {
		out = append(out, DesiredSubject(site, r))
	}
	if site, r, err := ParseReported(subject); err == nil {
		out = append(out, ReportedSubject(site, r))
	}
	if r, err := ParseLocalReported(subject); err == nil {
		out = append(out, LocalReportedSubject(r))
	}
	if site, err := SiteOfPresence(subject); err == nil {
		out = append(out, PresenceSubject(site))
	}
	if site, verb, err := ParseRequest(subject); err == nil {
		out = append(out, RequestSubject(site, verb))
	}
	if site, namespace, device, err := ParseCommand(subject); err == nil {
		out = append(out, CommandSubject(site, namespace, device))
	}
	return out
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
