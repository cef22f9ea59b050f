package natsd

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// errOpen reports a configuration with which anybody can use the embedded server.
var errOpen = errors.New("lets anybody on the gateway in without authentication")

// secure changes the options of the embedded server so that it accepts only authenticated
// clients, and only on listeners that are configured. The leaf becomes a user of its own
// account, by the public nkey and in process alone. It returns errOpen, with every setting to
// blame, for what it cannot close.
func secure(opts *server.Options, nkey string) error {
	opts.DontListen = opts.Host == "" && opts.Port == 0 // nats-server's default is 0.0.0.0:4222
	if opts.DontListen {
		opts.Host = "127.0.0.1" // the default of the monitoring listener, too
	}
	if err := checkClosed(opts); err != nil {
		return err
	}
	requireTLS(opts.LeafNode.Remotes)
	opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{
		Nkey: nkey, Account: ownAccount(opts),
		AllowedConnectionTypes: map[string]struct{}{"IN_PROCESS": {}},
	})
	return nil
}

// checkClosed reports every setting that lets in clients without a credential.
func checkClosed(o *server.Options) error {
	var errs []error
	refuse := func(is bool, setting, remedy string) {
		if is {
			errs = append(errs, fmt.Errorf("%s %w: %s", setting, errOpen, remedy))
		}
	}
	const users = "give each user an nkey or a password (deploy/leaf/leaf.conf.tmpl)"
	refuse(o.NoAuthUser != "", fmt.Sprintf("no_auth_user %q", o.NoAuthUser), users)
	refuse(o.MQTT.NoAuthUser != "", fmt.Sprintf("mqtt.no_auth_user %q", o.MQTT.NoAuthUser), users)
	refuse(o.Websocket.NoAuthUser != "", fmt.Sprintf("websocket.no_auth_user %q", o.Websocket.NoAuthUser), users)
	if o.JetStreamKey != "" || o.JetStreamOldKey != "" || o.JetStreamTpm.KeysFile != "" {
		errs = append(errs, errors.New("jetstream.key: the leaf encrypts the store that it embeds itself, so that no power cut loses it: use storage.encryption in leaf.yaml"))
	}
	errs = append(errs, checkRemotes(o.LeafNode.Remotes)...)
	for _, u := range o.Users {
		refuse(u.Password == "" && !o.TLSMap, fmt.Sprintf("the empty password of user %q", u.Username), users)
	}
	refuse(o.Cluster.Port != 0 && o.Cluster.Username == "", "cluster", "remove it, a gateway's server is no cluster")
	refuse(o.Gateway.Port != 0 && o.Gateway.Username == "", "gateway", "remove it, a gateway's server is no cluster")
	refuse(o.ProfPort != 0, "prof_port", "remove it")
	refuse((o.HTTPPort != 0 || o.HTTPSPort != 0) && !loopbackHost(cmp.Or(o.HTTPHost, o.Host)), "the monitoring listener (http, https)", `name a loopback address, as in http: "127.0.0.1:8222"`)
	if o.Username != "" || o.Authorization != "" {
		errs = append(errs, errors.New("authorization: a single user or token leaves no place for the leaf itself: use authorization.users or accounts"))
	}
	if len(o.TrustedOperators) > 0 {
		errs = append(errs, errors.New("operator: the leaf has no JWT for the server that it embeds: use accounts with users, or nats.url"))
	}
	return errors.Join(errs...)
}

// errPlain reports a hub to which the leaf would send Secrets in plain text, or to anybody who
// answers.
var errPlain = errors.New("does not protect the link to the hub")

// checkRemotes reports every hub that is reached without TLS or with a certificate that nobody
// verifies. On the gateway itself that is allowed: a tunnel may begin there.
func checkRemotes(remotes []*server.RemoteLeafOpts) (errs []error) {
	for _, r := range remotes {
		if u, err := url.Parse(r.Proxy.URL); err == nil && u.User != nil {
			errs = append(errs, fmt.Errorf("leafnodes.remotes: proxy.url %s: nats-server does not use the user in it: set username and password beside url", u.Redacted()))
		}
		for _, u := range r.URLs {
			switch {
			case loopbackHost(u.Hostname()):
			case r.TLSConfig == nil && !wantsTLS(u):
				errs = append(errs, fmt.Errorf("leafnodes.remotes: %s %w: use tls:// (or wss://)", u.Redacted(), errPlain))
			case r.TLSConfig != nil && r.TLSConfig.InsecureSkipVerify:
				errs = append(errs, fmt.Errorf("leafnodes.remotes: tls.insecure with %s %w: name the hub's ca_file", u.Redacted(), errPlain))
			}
		}
	}
	return errs
}

// requireTLS makes the leaf begin TLS with every hub whose URL says so. Without a tls block
// nats-server 2.15.2 would believe a false hub that wants none, in spite of tls:// in the URL
// (docs/upstream.md, 21).
func requireTLS(remotes []*server.RemoteLeafOpts) {
	for _, r := range remotes {
		r.TLS = r.TLS || slices.ContainsFunc(r.URLs, wantsTLS)
	}
}

func wantsTLS(u *url.URL) bool { return u.Scheme == "tls" || u.Scheme == "wss" }

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ownAccount returns the account of the link to the hub, which is also the leaf's; nil is the
// default account of the server.
func ownAccount(o *server.Options) *server.Account {
	for _, r := range o.LeafNode.Remotes {
		for _, a := range o.Accounts {
			if a.Name == r.LocalAccount {
				return a
			}
		}
	}
	return nil
}

// moveDefaultAccount renames the store of the default account, which older gateways used, to
// that of the leaf's account, unless that exists. Messages that wait there for the link are
// kept.
func moveDefaultAccount(o *server.Options) error {
	own := ownAccount(o)
	if own == nil || o.StoreDir == "" {
		return nil
	}
	root := filepath.Join(o.StoreDir, server.JetStreamStoreDir)
	before, now := filepath.Join(root, server.DEFAULT_GLOBAL_ACCOUNT), filepath.Join(root, own.Name)
	if _, err := os.Stat(now); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(before, "streams", streams.SiteDesired)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.Rename(before, now)
}

// warnSharedAccount logs the users that can write desired state because they share the leaf's
// account.
func warnSharedAccount(o *server.Options, nkey string, log *zap.Logger) {
	var names []string
	own := ownAccount(o)
	for _, u := range o.Users {
		if u.Account == own {
			names = append(names, u.Username)
		}
	}
	for _, u := range o.Nkeys {
		if u.Account == own && u.Nkey != nkey {
			names = append(names, u.Nkey)
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		log.Warn("users of the leaf's own account can run anything on this gateway", zap.Strings("users", names))
	}
}
