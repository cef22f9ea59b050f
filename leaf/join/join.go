package join

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/join"
)

// Options are what the caller of Run wants.
type Options struct {
	// URL is the hub's leaf listener.
	URL string
	// Token is what `kubectl petiole site create` has printed.
	Token string
	// Proxy is the URL of an HTTP proxy on the way to the hub, with its user and password; empty:
	// none.
	Proxy string
	// Node is the name of the node; empty: the one that the Site has, or else the host's name.
	Node string
	// RuntimeEndpoint is the socket of the container runtime; empty: CRI-O's or containerd's.
	RuntimeEndpoint string
	// IgnorePreflight are names of checks.
	IgnorePreflight []string
	// LocalClients has the site's nats-server listen on loopback, for NATS and MQTT, and creates
	// the credentials of its users.
	LocalClients bool
	// Services prepares the gateway for kube-proxy and CoreDNS at the site, without which its pods have
	// no DNS then.
	Services bool
	// NoStart leaves out the systemd unit.
	NoStart bool
	// Timeout bounds each of: the exchange with the bridge, and the wait for the connection.
	Timeout time.Duration
	// Version is that of the leaf.
	Version string
	// Progress is called with what is being done.
	Progress func(format string, args ...any)
}

var (
	// ErrRefused reports that the bridge does not let the gateway join.
	ErrRefused = errors.New("the bridge refuses")
	// ErrUndecided reports that the join was begun and is not complete: the same command
	// completes it.
	ErrUndecided = errors.New("the join is not complete")
	// ErrJoined reports that the machine is the gateway of another site.
	ErrJoined = errors.New("this machine has joined already")
)

const again = "; when that is repaired, run the same command again to complete it"

// Run makes the machine a gateway.
func Run(ctx context.Context, m Machine, o Options) error {
	token, err := join.ParseToken(o.Token)
	if err != nil {
		return err
	}
	hub, err := parseURL(o.URL)
	if err != nil {
		return err
	}
	proxy, err := parseProxy(o.Proxy)
	if err != nil {
		return err
	}
	if o.Node != "" {
		if problems := streams.CheckNodeName(o.Node); len(problems) > 0 {
			return fmt.Errorf("--node %q: %s", o.Node, problems[0])
		}
	}
	release, err := m.lock()
	if err != nil {
		return err
	}
	defer release()
	s, err := m.readState()
	if err != nil {
		return err
	}
	if s.Joined != "" && s.Site != token.Site {
		return fmt.Errorf("%w: it is a gateway of site %s; 'leaf reset' makes it none, and the token can be used then", ErrJoined, s.Site)
	}
	j := &joining{Machine: m, o: o, token: token, hub: hub, proxy: proxy, state: s}
	if s.Joined != token.Public() {
		if err := j.join(ctx); err != nil {
			return err
		}
	} else {
		if err := remove(m.config(newKeyFile)); err != nil { // a join that was interrupted at its end
			return err
		}
		o.Progress("this gateway has joined site %s already, as node %s", s.Site, s.Node)
	}
	return j.start(ctx)
}

// parseURL returns the URL of the hub. Without a scheme it is TLS, without a port the usual one.
func parseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "tls://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("URL of the hub: %w", err)
	}
	switch u.Scheme {
	case "tls", "nats-leaf", "nats", "ws":
		if u.Port() == "" {
			u.Host += ":7422"
		}
	case "wss":
		if u.Port() == "" {
			u.Host += ":443"
		}
	default:
		return nil, fmt.Errorf("URL of the hub: %q: want tls://HOST:7422 or wss://HOST", s)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("URL of the hub: %q: it has no host", s)
	}
	return u, nil
}

// parseProxy returns the URL of an HTTP proxy, nil if it is empty. Errors do not have the password.
func parseProxy(s string) (*url.URL, error) {
	if s == "" {
		return nil, nil
	}
	const want = "want http://USER:PASSWORD@HOST:PORT, or without a user; % and other special characters of the password are escaped (%25)"
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("--proxy: not a URL: " + want)
	}
	password, _ := u.User.Password()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("--proxy %q: the scheme %s is not supported: %s", u.Redacted(), u.Scheme, want)
	case u.Hostname() == "":
		return nil, fmt.Errorf("--proxy %q: it has no host: %s", u.Redacted(), want)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
		return nil, fmt.Errorf("--proxy %q: it has a path: %s", u.Redacted(), want)
	case (u.User.Username() == "") != (password == ""):
		return nil, fmt.Errorf("--proxy %q: user and password need each other: %s", u.Redacted(), want)
	}
	return u, nil
}

// joining is one run.
type joining struct {
	Machine
	o     Options
	token join.Token
	hub   *url.URL
	// proxy is nil if there is none.
	proxy *url.URL
	state state

	// configFiles are those that go again if the join is not complete, identity the key and the
	// state, which stay once the bridge was asked.
	configFiles, identity changes
}

// join does everything up to a complete configuration. What it has written is removed if the
// bridge was not asked, or has refused.
func (j *joining) join(ctx context.Context) (err error) {
	running := j.active(ctx)
	info, err := j.check(ctx, running)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		undoErr := errors.Join(remove(j.config(reserveFile)), j.configFiles.revert(), j.identity.revert())
		if undoErr != nil {
			err = errors.Join(err, fmt.Errorf("undo what was written: %w", undoErr))
		}
	}()
	key, err := j.prepare(info)
	if err != nil {
		return err
	}
	answer, err := j.ask(ctx, key)
	if err != nil {
		return err
	}
	if err := j.accept(key, answer); err != nil {
		return fmt.Errorf("%w: the bridge has accepted this gateway: %w"+again, ErrUndecided, err)
	}
	return nil
}

func (j *joining) check(ctx context.Context, running bool) (runtimeInfo, error) {
	j.o.Progress("checking this machine")
	p := &problems{ignored: j.o.IgnorePreflight, log: j.o.Progress}
	info := j.preflight(ctx, j.token, j.o.RuntimeEndpoint, running, j.o.Services, p)
	if j.state == (state{}) {
		for _, name := range []string{leafYAML, leafConf, proxyConf, kubeletYAML, credsFile, keyFile} {
			if _, err := os.Lstat(j.config(name)); err == nil {
				p.list = append(p.list, fmt.Sprintf("[Files] %s exists, and leaf join has not written it: move it away, or keep it and do without leaf join (docs/install.md)", j.config(name)))
			}
		}
	}
	return info, p.err()
}

// prepare writes everything that does not depend on the bridge's answer, and returns the gateway's
// new key.
func (j *joining) prepare(info runtimeInfo) (nkeys.KeyPair, error) {
	if err := j.configFiles.write(j.config(reserveFile), make([]byte, reserveBytes), 0o600); err != nil {
		return nil, fmt.Errorf("%w: the disk is full, or not writable: nothing was changed", err)
	}
	if j.state.Site != j.token.Site {
		// A key that another site may have accepted is not used for this one.
		if err := remove(j.config(newKeyFile)); err != nil {
			return nil, err
		}
	}
	// Before the other files: those that an interrupted join leaves are known to be its own.
	begun := j.state
	begun.Site = j.token.Site
	if err := j.identity.write(j.config(stateFile), begun.encode(), 0o600); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(j.config(newKeyFile)); err != nil {
		j.identity.undo = append(j.identity.undo, func() error { return remove(j.config(newKeyFile)) })
	}
	if _, err := credential.Seed(j.config(newKeyFile)); err != nil {
		return nil, err
	}
	seed, err := os.ReadFile(j.config(newKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read the gateway's key: %w", err)
	}
	key, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return nil, fmt.Errorf("read the gateway's key: %w", err)
	}
	kubelet, err := j.renderKubelet(info, j.o.Services)
	if err != nil {
		return nil, err
	}
	conf, err := j.renderLeafConf(j.token.Site, j.hub.String(), len(j.token.Authorities) > 0, j.o.LocalClients, j.proxy != nil)
	if err != nil {
		return nil, err
	}
	if j.proxy != nil {
		if err := j.configFiles.write(j.config(proxyConf), renderProxy(j.proxy), 0o600); err != nil {
			return nil, err
		}
	}
	sameWay := j.state.URL == j.hub.String() && j.state.Proxy == (j.proxy != nil)
	for name, data := range map[string][]byte{kubeletYAML: kubelet, leafConf: conf} {
		// What a person has changed since an earlier join stays, except that the hub may be
		// elsewhere.
		if j.state.Joined != "" && (name == kubeletYAML || sameWay) {
			continue
		}
		if before, err := os.ReadFile(j.config(name)); err == nil && j.state.Joined != "" {
			if err := j.configFiles.write(j.config(name)+beforeSuffix, before, 0o600); err != nil {
				return nil, err
			}
			j.o.Progress("%s is written for the other way to the hub; what it was is in %s", j.config(name), name+beforeSuffix)
		}
		if err := j.configFiles.write(j.config(name), data, 0o600); err != nil {
			return nil, err
		}
	}
	return key, nil
}

// ask sends the request to the bridge. While it is not known whether the bridge has accepted the
// gateway, its key is not among what is undone.
func (j *joining) ask(ctx context.Context, key nkeys.KeyPair) (join.Answer, error) {
	if end := j.token.Expires(); j.state.Asked != j.token.Public() && !j.Now().Before(end) {
		return join.Answer{}, fmt.Errorf("the token has expired at %s, and the clock of this machine says %s: make one with 'kubectl petiole site rejoin %s', or set the clock if that is wrong",
			end.UTC().Format(time.RFC3339), j.Now().UTC().Format(time.RFC3339), j.token.Site)
	}
	ctx, cancel := context.WithTimeout(ctx, j.o.Timeout)
	defer cancel()
	by := ""
	if j.proxy != nil {
		by = " by the HTTP proxy " + j.proxy.Redacted()
	}
	gateway, err := key.PublicKey()
	if err != nil {
		return join.Answer{}, fmt.Errorf("read the gateway's key: %w", err)
	}
	j.o.Progress("connecting to the hub at %s%s", j.hub.Redacted(), by)
	session, err := natsd.DialHub(ctx, natsd.HubConfig{
		URL: j.hub, Proxy: j.proxy, Site: j.token.Site, Gateway: gateway, Authorities: j.token.Authorities, JWT: j.token.JWT, Sign: j.token.Sign, Settle: time.Second,
	})
	if err != nil {
		return join.Answer{}, fmt.Errorf("%w: %s; nothing was changed", err, explain(err, j.token.Site))
	}
	defer session.Close()
	request, err := join.Request{Node: j.o.Node, Host: j.Hostname, Version: j.o.Version}.Encode(j.token, key)
	if err != nil {
		return join.Answer{}, err
	}
	asked := j.state
	asked.Site, asked.Asked = j.token.Site, j.token.Public()
	if err := j.identity.write(j.config(stateFile), asked.encode(), 0o600); err != nil {
		return join.Answer{}, err
	}
	j.state = asked
	refused := j.identity
	j.identity.forget()
	j.o.Progress("asking the bridge to let this gateway join site %s", j.token.Site)
	answer, err := j.exchange(ctx, session, request, gateway)
	if err != nil {
		return join.Answer{}, fmt.Errorf("%w: %w"+again, ErrUndecided, err)
	}
	if answer.Code != join.Accepted {
		j.identity = refused
		return join.Answer{}, fmt.Errorf("%w (%s): %s", ErrRefused, answer.Code, answer.Message)
	}
	return answer, nil
}

// exchange sends the request until the bridge decides.
func (j *joining) exchange(ctx context.Context, session *natsd.Session, request []byte, gateway string) (join.Answer, error) {
	last := errors.New("no bridge answers: is one running? 'kubectl petiole status' shows which one leads")
	for {
		data, err := session.Request(ctx, streams.RequestSubject(j.token.Site, join.Verb), request)
		switch {
		case errors.Is(err, natsd.ErrEnded):
			return join.Answer{}, fmt.Errorf("%w: %s", err, explain(err, j.token.Site))
		case err != nil:
			return join.Answer{}, fmt.Errorf("%w: %w", err, last)
		}
		answer, err := join.ParseAnswer(data, request, j.token, gateway)
		switch {
		case err != nil:
			last = err
		case answer.Code != join.Unavailable:
			return answer, nil
		default:
			last = fmt.Errorf("the bridge cannot decide now: %s", answer.Message)
		}
		select {
		case <-ctx.Done():
			return join.Answer{}, last
		case <-time.After(time.Second):
		}
	}
}

// explain returns what to do about an error of the connection to the hub.
func explain(err error, site string) string {
	text := strings.ToLower(err.Error())
	for _, c := range []struct{ part, remedy string }{
		{"unknown authority", "its certificate is not of the authority in the token: is the URL that of your hub? Somebody may be listening in, or inspect TLS: then have that device let the hub's host pass untouched"},
		{"not valid for any names", "its certificate does not name this host: use the name in the certificate, or issue one that has it"},
		{"certificate is valid for", "its certificate does not name this host: use the name in the certificate, or issue one that has it"},
		{"cannot validate certificate", "its certificate does not name this host: use the name in the certificate, or issue one that has it"},
		{"expired or is not yet valid", "its certificate has expired, or the clock of this machine is wrong"},
		{"maximum", "another machine has this token or this key, a cloned disk perhaps: 'leaf reset' on the copy, and join it with a token of its own"},
		{"authorization violation", "it does not accept the token (expired, withdrawn or replaced), or the site was revoked: make one with 'kubectl petiole site rejoin " + site + "'"},
		{"authentication expired", "the token has expired: make one with 'kubectl petiole site rejoin " + site + "'"},
	} {
		if strings.Contains(text, c.part) {
			return c.remedy
		}
	}
	return cmp.Or(natsd.Remedy(err), "check the URL, and firewalls and proxies on the way")
}

// accept writes what the bridge has answered.
func (j *joining) accept(key nkeys.KeyPair, answer join.Answer) error {
	if err := remove(j.config(reserveFile)); err != nil {
		return err
	}
	seed, err := key.Seed()
	if err != nil {
		return fmt.Errorf("read the gateway's key: %w", err)
	}
	creds, err := jwt.FormatUserConfig(answer.JWT, seed)
	if err != nil {
		return fmt.Errorf("format credentials: %w", err)
	}
	leaf, err := j.renderLeafYAML(j.token.Site, answer.Node, j.o.Services)
	if err != nil {
		return err
	}
	var keep changes
	if answer.Authorities != "" {
		if err := keep.write(j.config(caFile), []byte(answer.Authorities), 0o644); err != nil {
			return err
		}
	}
	if j.state.Joined == "" || j.state.Node != answer.Node {
		if err := keep.write(j.config(leafYAML), leaf, 0o600); err != nil {
			return err
		}
	}
	if j.o.LocalClients {
		if err := errors.Join(credential.KeyUser(j.config(usersDir), "operator"), credential.PasswordUser(j.config(usersDir), "application")); err != nil {
			return err
		}
	}
	if err := keep.write(j.config(credsFile), creds, 0o600); err != nil {
		return err
	}
	if err := keep.write(j.config(keyFile), append(seed, '\n'), 0o600); err != nil {
		return err
	}
	j.state.Joined, j.state.Asked, j.state.Node, j.state.URL = j.token.Public(), "", answer.Node, j.hub.String()
	j.state.Proxy = j.proxy != nil
	if err := keep.write(j.config(stateFile), j.state.encode(), 0o600); err != nil {
		return err
	}
	j.o.Progress("this gateway is a gateway of site %s, and its node is %s", j.token.Site, answer.Node)
	return remove(j.config(newKeyFile))
}
