package leaf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/petiole-io/petiole/leaf/field"
	"github.com/petiole-io/petiole/streams"
)

const (
	// asideName is the folder beside JetStream's that holds the last copy of each damaged
	// stream.
	asideName = "aside"
	// The folders of a stream's messages and of its consumers.
	messagesDir  = "msgs"
	consumersDir = "obs"
)

// streamDir identifies the folder of a stream in JetStream's store.
type streamDir struct{ account, stream string }

func (d streamDir) in(store string) string {
	return filepath.Join(store, d.account, "streams", d.stream)
}

// aside returns the folder for the copy of a damaged stream.
func (d streamDir) aside(store string) string {
	return filepath.Join(filepath.Dir(store), asideName, d.account, d.stream)
}

// unrecovered returns the streams that have a folder and that the server did not recover.
func unrecovered(s *server.Server, store string) ([]streamDir, error) {
	z, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	up := map[streamDir]bool{}
	for _, a := range z.AccountDetails {
		for _, s := range a.Streams {
			up[streamDir{a.Name, s.Name}] = true
		}
	}
	folders, err := filepath.Glob(filepath.Join(store, "*", "streams", "*"))
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	var out []streamDir
	for _, f := range folders {
		d := streamDir{filepath.Base(filepath.Dir(filepath.Dir(f))), filepath.Base(f)}
		if !up[d] && !strings.HasPrefix(d.stream, ".") { // the server removes those itself
			out = append(out, d)
		}
	}
	return out, nil
}

// unrecoveredConsumers returns the folders of durable consumers that the server did not recover,
// and that it would not create again either.
func unrecoveredConsumers(s *server.Server, store string) ([]string, error) {
	z, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Consumer: true})
	if err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	var out []string
	for _, a := range z.AccountDetails {
		for _, d := range a.Streams {
			folders, err := filepath.Glob(filepath.Join(streamDir{a.Name, d.Name}.in(store), consumersDir, "*"))
			if err != nil {
				return nil, fmt.Errorf("list consumers: %w", err)
			}
			for _, f := range folders {
				up := func(c *server.ConsumerInfo) bool { return c.Name == filepath.Base(f) }
				if !slices.ContainsFunc(d.Consumer, up) {
					out = append(out, f)
				}
			}
		}
	}
	return out, nil
}

// accountOf returns the account of a stream.
func accountOf(s *server.Server, stream string) (string, error) {
	z, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return "", fmt.Errorf("list streams: %w", err)
	}
	for _, a := range z.AccountDetails {
		if slices.ContainsFunc(a.Streams, func(d server.StreamDetail) bool { return d.Name == stream }) {
			return a.Name, nil
		}
	}
	return "", fmt.Errorf("no account has stream %s", stream)
}

// setAside moves the folders of damaged streams out of the store and replaces earlier copies.
// The server must not run, or not have the streams open.
func setAside(store string, dirs []streamDir) error {
	var errs []error
	for _, d := range dirs {
		to := d.aside(store)
		err := os.RemoveAll(to)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o700)
		}
		if err == nil {
			err = os.Rename(d.in(store), to)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("set aside %s: %w", d.stream, err))
		}
	}
	return errors.Join(errs...)
}

// restoreMessages moves the messages and consumers of streams that were set aside into the
// streams that were created in their place. The server must not run.
func restoreMessages(store string, dirs []streamDir) error {
	var errs []error
	for _, d := range dirs {
		for _, part := range []string{messagesDir, consumersDir} {
			from, to := filepath.Join(d.aside(store), part), filepath.Join(d.in(store), part)
			if _, err := os.Stat(from); err != nil {
				continue // there is nothing to keep
			}
			err := os.RemoveAll(to)
			if err == nil {
				err = os.Rename(from, to)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("keep the messages of %s: %w", d.stream, err))
			}
		}
	}
	return errors.Join(errs...)
}

// irreplaceable reports whether a stream holds what exists nowhere else: what the hub may not
// have yet, or the device state. Its readable messages are kept; other streams are created
// again.
func irreplaceable(stream string) bool {
	switch stream {
	case streams.SiteReported, streams.SiteTelemetry, streams.SiteQuarantine, field.StateStream:
		return true
	}
	return false
}
