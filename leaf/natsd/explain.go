package natsd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// hubError is what nats-server has logged about its connection to the hub, and what to do about it.
type hubError struct{ text, remedy string }

func (e hubError) Error() string { return e.text }

// line returns the error with its remedy.
func (e hubError) line() string {
	if e.remedy == "" {
		return e.text
	}
	return e.text + ": " + e.remedy
}

// Remedy returns what to do about an error of DialHub, or "".
func Remedy(err error) string {
	var e hubError
	errors.As(err, &e)
	return e.remedy
}

// remedies has what to do by a part of what nats-server says, in lower case.
var remedies = []struct{ part, remedy string }{
	{"proxy connect failed: 407", "the HTTP proxy does not accept the user: set username and password of the proxy in leaf.conf; the proxy must offer Basic authentication"},
	{"proxy connect failed", "the HTTP proxy does not connect to the hub: have its administrator allow CONNECT to the hub's host and port, or use wss:// on port 443, which most proxies allow"},
	{"failed to connect to proxy", "the HTTP proxy cannot be reached: check the url of the proxy in leaf.conf"},
	{"proxy tls handshake failed", "the certificate of the HTTP proxy is not trusted: name its authority as tls.ca_file of the proxy in leaf.conf"},
	{"failed to read proxy response", "what answers as HTTP proxy is none, or it gave up: check the url of the proxy in leaf.conf"},
	{"unknown authority", "this is not the hub, or a device on the way inspects TLS: have it let the hub's host pass untouched; ca_file in leaf.conf has the authority of the hub"},
	{"certificate is valid for", "another host answers: DNS has a wrong address, or the URL is not a name in the hub's certificate"},
	{"not valid for any names", "another host answers: DNS has a wrong address, or the URL is not a name in the hub's certificate"},
	{"cannot validate certificate", "another host answers: DNS has a wrong address, or the URL is not a name in the hub's certificate"},
	{strings.ToLower(invalidTime), "renew the hub's certificate if it has expired"},
	{"first record does not look like a tls handshake", "what answers does not speak TLS: check host and port"},
	{"invalid websocket connection", "what answers takes no WebSocket: the hub needs a websocket block (bridge hub init --websocket), and a reverse proxy must pass WebSockets on"},
	{"lookup for host", "check the name and the DNS of this machine"},
	{"connection refused", "nothing listens there: check host and port, and that the hub runs"},
}

// explain returns a line of nats-server's log about the hub with what the line leaves out: who has
// issued a certificate that is not trusted, and what to do.
func explain(format string, args []any) hubError {
	e := hubError{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		var untrusted *tls.CertificateVerificationError
		if err, ok := a.(error); ok && errors.As(err, &untrusted) && len(untrusted.UnverifiedCertificates) > 0 {
			c := untrusted.UnverifiedCertificates[0]
			e.text += fmt.Sprintf("; the certificate was issued by %q for %q", c.Issuer, slices.Concat(c.DNSNames, addresses(c.IPAddresses)))
		}
	}
	text := strings.ToLower(e.text)
	for _, r := range remedies {
		if strings.Contains(text, r.part) {
			e.remedy = r.remedy
			break
		}
	}
	if strings.Contains(e.text, invalidTime) {
		e.remedy = fmt.Sprintf("the clock of this gateway says %s; if that is wrong set it, as with NTP; else %s", time.Now().UTC().Format(time.RFC3339), e.remedy)
	}
	return e
}

func addresses[T fmt.Stringer](ips []T) (out []string) {
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}
