package join

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/petiole-io/petiole/leaf/natsd"
)

// unitName is the systemd unit of the leaf.
const unitName = "petiole-leaf.service"

// packagedUnit is where a package installs the unit.
const packagedUnit = "/usr/lib/systemd/system/" + unitName

// accountTime is how long the bridge may need to store the account of a gateway that it has accepted.
const accountTime = 10 * time.Second

// start checks that the hub lets the gateway in, and starts the leaf.
func (j *joining) start(ctx context.Context) error {
	if !j.active(ctx) {
		if err := j.try(ctx); err != nil {
			return err
		}
	}
	command := fmt.Sprintf("%s --config %s", j.Executable, j.config(leafYAML))
	switch {
	case j.o.NoStart:
		j.o.Progress("start the leaf with: %s", command)
		return nil
	case j.Systemctl == nil:
		j.o.Progress("this machine has no systemd: have your init system run, as root and again when it ends: %s", command)
		return nil
	}
	if err := j.installUnit(); err != nil {
		return err
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", unitName}, {"restart", unitName}} {
		if err := j.Systemctl(ctx, args...); err != nil {
			return fmt.Errorf("%w: start the leaf: %w"+again, ErrUndecided, err)
		}
	}
	return j.awaitLink(ctx)
}

// try connects to the hub with the gateway's own credentials, once.
func (j *joining) try(ctx context.Context) error {
	creds, err := os.ReadFile(j.config(credsFile))
	if err != nil {
		return fmt.Errorf("read the credentials: %w", err)
	}
	token, err := jwt.ParseDecoratedJWT(creds)
	if err != nil {
		return fmt.Errorf("read the credentials: %w", err)
	}
	key, err := jwt.ParseDecoratedUserNKey(creds)
	if err != nil {
		return fmt.Errorf("read the credentials: %w", err)
	}
	gateway, err := key.PublicKey()
	if err != nil {
		return fmt.Errorf("read the credentials: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, j.o.Timeout)
	defer cancel()
	j.o.Progress("connecting to the hub as the gateway")
	session, err := natsd.DialHub(ctx, natsd.HubConfig{URL: j.hub, Proxy: j.proxy, Site: j.token.Site, Gateway: gateway, Authorities: j.token.Authorities, JWT: token, Sign: key.Sign, Settle: accountTime})
	if err != nil {
		return fmt.Errorf("%w: this gateway has joined, and cannot connect: %w: %s"+again, ErrUndecided, err, explain(err, j.token.Site))
	}
	session.Close()
	return nil
}

// installUnit writes the unit, unless a package has installed it or it is there.
func (j *joining) installUnit() error {
	path := filepath.Join(j.UnitDir, unitName)
	if _, err := os.Lstat(path); err == nil || j.exists(packagedUnit) {
		return nil
	}
	unit, err := j.renderUnit()
	if err != nil {
		return err
	}
	var keep changes
	if err := keep.write(path, unit, 0o644); err != nil {
		return fmt.Errorf("%w: %w"+again, ErrUndecided, err)
	}
	j.state.Unit = path
	if err := keep.write(j.config(stateFile), j.state.encode(), 0o600); err != nil {
		return fmt.Errorf("%w: %w"+again, ErrUndecided, err)
	}
	return nil
}

// linkUp matches the metric of a leaf that is connected to the hub.
var linkUp = regexp.MustCompile(`(?m)^petiole_leaf_link_up 1$`)

// awaitLink waits until the leaf serves its node API and is connected to the hub.
func (j *joining) awaitLink(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, j.o.Timeout)
	defer cancel()
	var said string
	for {
		why := j.unready(ctx)
		if why == "" {
			j.o.Progress("site %s is connected: kubectl get nodes %s", j.token.Site, j.state.Node)
			return nil
		}
		if why != said && ctx.Err() == nil {
			j.o.Progress("waiting: %s", why)
			said = why
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: within %s the leaf has not connected: %s; 'journalctl -u %s' says why. It keeps trying", ErrUndecided, j.o.Timeout, said, strings.TrimSuffix(unitName, ".service"))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// unready returns why the leaf is not ready, empty if it is.
func (j *joining) unready(ctx context.Context) string {
	if _, err := j.get(ctx, "/readyz"); err != nil {
		return "the leaf starts: " + err.Error()
	}
	metrics, err := j.get(ctx, "/metrics")
	if err != nil {
		return "the leaf starts: " + err.Error()
	}
	if !linkUp.Match(metrics) {
		return "the leaf connects to the hub"
	}
	return ""
}

func (j *joining) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+j.Metrics+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, strings.TrimSpace(string(body)))
	}
	return body, err
}
