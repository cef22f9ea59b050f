package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// httpTime is when the source's file was created.
var httpTime = time.Date(2025, 8, 9, 0, 0, 0, 0, time.UTC)

func TestSourcesAreEachRepositoryOnce(t *testing.T) {
	got := sources("http://deb.example/debian/\nhttp://deb.example/debian/\nfile:/srv/debian\nhttps://sec.example/debian-security\n\n")
	if want := []string{"http://deb.example/debian", "https://sec.example/debian-security"}; !slices.Equal(got, want) {
		t.Errorf("sources %q, want %q", got, want)
	}
}

func TestProxyIsApts(t *testing.T) {
	c := parseConfig(`Acquire "";
Acquire::Check-Date "false";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::http::Proxy::near.example "DIRECT";
Acquire::IndexTargets::deb::Packages::MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
`)
	if got, want := c.checks(), "Acquire::Check-Date \"false\";\n"; got != want {
		t.Errorf("checks %q, want %q", got, want)
	}
	for address, want := range map[string]string{"http://far.example/debian": "http://proxy.example:3128", "http://near.example/debian": ""} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		proxy, err := c.proxy(u)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if proxy != nil {
			got = proxy.String()
		}
		if got != want {
			t.Errorf("proxy of %s: %q, want %q", address, got, want)
		}
	}
}

// apt resumes a download with Range, and asks with If-Modified-Since.
func TestMirrorServesWhatTheSourceDoes(t *testing.T) {
	const text = "Origin: Debian\n"
	mux := http.NewServeMux()
	mux.HandleFunc("/debian/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/debian/dists/trixie/InRelease", http.StatusFound)
	})
	mux.HandleFunc("/debian/dists/trixie/InRelease", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", httpTime, strings.NewReader(text))
	})
	source := httptest.NewServer(mux)
	defer source.Close()
	m := mirror{base: source.URL + "/debian", client: source.Client()}
	if err := m.has(context.Background(), "trixie"); err != nil {
		t.Error(err)
	}
	if err := m.has(context.Background(), "sarge"); err == nil || !strings.Contains(err.Error(), "sarge: 404") {
		t.Errorf("a suite that it has not: %v", err)
	}
	front := httptest.NewServer(m)
	defer front.Close()
	for name, c := range map[string]struct {
		path, header, value, body string
		status                    int
	}{
		"whole":        {"/dists/trixie/InRelease", "", "", text, http.StatusOK},
		"part":         {"/dists/trixie/InRelease", "Range", "bytes=8-", text[8:], http.StatusPartialContent},
		"not modified": {"/dists/trixie/InRelease", "If-Modified-Since", httpTime.Format(http.TimeFormat), "", http.StatusNotModified},
		"moved":        {"/moved", "", "", text, http.StatusOK},
		"absent":       {"/none", "", "", "404 page not found\n", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set(c.header, c.value)
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != c.status || string(body) != c.body {
			t.Errorf("%s: %s, body %q, %v; want %d, %q", name, answer.Status, body, err, c.status, c.body)
		}
	}
}

// Half a file that looks whole would be a package that does not unpack.
func TestMirrorBreaksOffWithTheSource(t *testing.T) {
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Transfer-Encoding", "chunked")
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer source.Close()
	front := httptest.NewServer(mirror{base: source.URL, client: source.Client()})
	defer front.Close()
	answer, err := http.Get(front.URL + "/pool/x.deb")
	if err != nil {
		return // broken off before the header
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err == nil {
		t.Errorf("read %q without an error", body)
	}
}
