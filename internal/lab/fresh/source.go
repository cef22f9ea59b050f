package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// mirror serves one of the sources that apt is configured with, with apt's proxy and
// authorities. It is all that a bare root can reach, and no root's configuration says where
// the packages come from.
type mirror struct {
	base   string
	client *http.Client
	// checks are apt's settings on dates, as lines of apt.conf(5).
	checks string
}

// findMirror returns the first of apt's sources that has the suite.
func findMirror(ctx context.Context, suite string) (mirror, error) {
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return mirror{}, fmt.Errorf("read the configuration of apt: %w", err)
	}
	settings := parseConfig(string(dump))
	client, err := settings.client()
	if err != nil {
		return mirror{}, err
	}
	targets, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return mirror{}, fmt.Errorf("read the sources of apt: %w", err)
	}
	errs := []error{fmt.Errorf("no source of apt has Debian's suite %s; add one that has", suite)}
	for _, base := range sources(string(targets)) {
		m := mirror{base: base, client: client, checks: settings.checks()}
		if err := m.has(ctx, suite); err != nil {
			errs = append(errs, err)
			continue
		}
		return m, nil
	}
	return mirror{}, errors.Join(errs...)
}

// sources returns the addresses of repositories in the output of apt-get indextargets, each
// once. Those that are not on a web server are left out.
func sources(targets string) []string {
	var found []string
	for line := range strings.Lines(targets) {
		base := strings.TrimSuffix(strings.TrimSpace(line), "/")
		if (strings.HasPrefix(base, "http://") || strings.HasPrefix(base, "https://")) && !slices.Contains(found, base) {
			found = append(found, base)
		}
	}
	return found
}

func (m mirror) has(ctx context.Context, suite string) error {
	answer, err := m.get(ctx, http.MethodHead, "/dists/"+suite+"/InRelease", nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("request suite %s: %s", suite, answer.Status)
	}
	return nil
}

func (m mirror) get(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, m.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("query the package source: %w", err)
	}
	for _, name := range []string{"Range", "If-Range", "If-Modified-Since", "User-Agent"} {
		if v := header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	answer, err := m.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("query the package source: %w", err)
	}
	return answer, nil
}

// ServeHTTP forwards the requests of a bare root. It follows redirections itself.
func (m mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	answer, err := m.get(r.Context(), r.Method, r.URL.EscapedPath(), r.Header)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	for _, name := range []string{"Content-Length", "Content-Range", "Content-Type", "Last-Modified", "Accept-Ranges"} {
		if v := answer.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(answer.StatusCode)
	if _, err := io.Copy(w, answer.Body); err != nil {
		panic(http.ErrAbortHandler) // the client must not take half a file for a whole one
	}
}

// config are apt's settings by name.
type config map[string]string

// parseConfig reads the output of apt-config dump.
func parseConfig(dump string) config {
	c := config{}
	for line := range strings.Lines(dump) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSuffix(value, ";")
		if ok && len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			c[strings.ToLower(name)] = value[1 : len(value)-1]
		}
	}
	return c
}

// checks returns the settings on the dates of a release, as lines of apt.conf(5).
func (c config) checks() string {
	var lines strings.Builder
	for _, name := range []string{"Acquire::Check-Valid-Until", "Acquire::Check-Date"} {
		if v, ok := c[strings.ToLower(name)]; ok {
			fmt.Fprintf(&lines, "%s %q;\n", name, v)
		}
	}
	return lines.String()
}

// proxy returns the proxy that apt uses for an address, or nil.
func (c config) proxy(u *url.URL) (*url.URL, error) {
	value := c["acquire::"+u.Scheme+"::proxy::"+u.Hostname()]
	if value == "" {
		value = c["acquire::"+u.Scheme+"::proxy"]
	}
	switch value {
	case "":
		return http.ProxyFromEnvironment(&http.Request{URL: u})
	case "DIRECT", "false":
		return nil, nil
	}
	return url.Parse(value)
}

func (c config) client() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = func(r *http.Request) (*url.URL, error) { return c.proxy(r.URL) }
	transport.ResponseHeaderTimeout = time.Minute
	transport.DisableCompression = true
	if file := c["acquire::https::cainfo"]; file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the authorities of apt: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the authorities of apt: %s has no certificate", file)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: transport}, nil
}
