package plugin

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

func TestPaint(t *testing.T) {
	const table = "Name: plant\nNAME      STATE          NODES\nplant-a   OK             1\nplant-b   Silent,Pending 2\nplant-c\n"
	const want = "Name: plant\nNAME      STATE          NODES\nplant-a   \x1b[32mOK\x1b[0m             1\nplant-b   \x1b[31mSilent,Pending\x1b[0m 2\nplant-c\n"
	if got := paint(table, "STATE", colourOfState); got != want {
		t.Errorf("painted\n%q, want\n%q", got, want)
	}
	if got := paint(table, "OTHER", colourOfState); got != table {
		t.Errorf("without the column: %q", got)
	}
	if got := paint("TYPE     STATUS\nSynced   False\n", "STATUS", colourOfStatus); got != "TYPE     STATUS\nSynced   \x1b[31mFalse\x1b[0m\n" {
		t.Errorf("last column: %q", got)
	}
}

func TestColourOfState(t *testing.T) {
	for cell, want := range map[string]colour{
		"OK": green, "Unknown": yellow, "Pending": yellow, "Pending,Unapplied": yellow, "Silent": red, "Pending,DiskFull": red, "KubeletFailing": red,
	} {
		if got := colourOfState(cell); got != want {
			t.Errorf("%s: %q, want %q", cell, got, want)
		}
	}
}

func TestTerminalShowsTheLastFrame(t *testing.T) {
	var out bytes.Buffer
	screen := terminal{out: &out, size: func() (int, int, error) { return 8, 4, nil }}
	for _, frame := range []string{"one\n", "1\n2\n3\n4\n5\n", "\x1b[32mgreen and long\x1b[0m\n"} {
		if err := screen.show(frame); err != nil {
			t.Fatal(err)
		}
	}
	const want = "\r\x1b[Kone\n\x1b[J" +
		"\x1b[1A\r\x1b[K1\n\r\x1b[K2\n\r\x1b[K… 3 more\n\x1b[J" +
		"\x1b[3A\r\x1b[K\x1b[32mgreen an\x1b[0m\n\x1b[J"
	if out.String() != want {
		t.Errorf("written\n%q, want\n%q", out.String(), want)
	}
}

func TestBar(t *testing.T) {
	var p progress
	site := &v1alpha1.Site{ObjectMeta: metav1.ObjectMeta{Name: "plant-a"}}
	for _, c := range []struct {
		pending, unapplied int64
		want               string
	}{
		{0, 0, ""}, {40, 0, "[----------] 0 of 40"}, {5, 5, "[#######---] 30 of 40"}, {0, 1, "[#########-] 39 of 40"}, {0, 0, ""}, {2, 0, "[----------] 0 of 2"},
	} {
		site.Status.Pending, site.Status.Unapplied = c.pending, c.unapplied
		if got := p.bar(site); got != c.want {
			t.Errorf("%d pending, %d unapplied: %q, want %q", c.pending, c.unapplied, got, c.want)
		}
	}
}

// TestWatch: what is no terminal gets a table after each change, without colours.
func TestWatch(t *testing.T) {
	a := &apiServer{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/sites") {
			a.mu.Lock()
			switch asked++; asked {
			case 3:
				a.site.Status.Pending, a.site.ResourceVersion = 1, "2"
			case 4:
				cancel()
			}
			a.mu.Unlock()
		}
		a.ServeHTTP(w, r)
	}))
	a.start()
	run := a.startWith(server)
	a.context = ctx
	code, out, errOut := run("status", "--watch")
	if code != 0 || strings.Count(out, "plant-a") != 2 || !strings.Contains(out, "[#####-----] 1 of 2") || strings.Contains(out, "\x1b") {
		t.Errorf("code %d, %s\n%s", code, errOut, out)
	}
	if code, _, errOut := run("status", "--watch", "-o", "yaml"); code != 1 || !strings.Contains(errOut, "--output yaml") {
		t.Errorf("code %d, %s", code, errOut)
	}
}
