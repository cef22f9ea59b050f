package natsd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// errNeedsRestart reports a change that a running server cannot make.
var errNeedsRestart = errors.New("needs a restart of the leaf")

// notInARemote is in the error of nats-server about a setting of a remote that it cannot change.
const notInARemote = "LeafNode: remote "

// Reload has a server read its configuration file again, with the certificates and authorities that it names.
// Streams and connections stay, except the one to the hub if its URL, proxy or compression has
// changed; a new certificate or authority counts from the next connection on. If the file cannot be
// used, or has a change that a running server cannot make, Reload returns an error and everything
// stays as it was.
func Reload(s *Server) error {
	opts, err := readReloaded(s)
	if err != nil {
		return err
	}
	running := s.server()
	if running == nil {
		return errNotRunning
	}
	proxied := allProxied(opts.LeafNode.Remotes)
	err = running.ReloadOptions(opts)
	if err != nil && strings.Contains(err.Error(), notInARemote) {
		// A remote that nats-server cannot change it can replace.
		err = replaceRemotes(s, running)
	}
	if err != nil {
		return fmt.Errorf("nats.configFile %s: %w: %w", s.configFile, errNeedsRestart, err)
	}
	s.addresses.proxied.Store(proxied)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hub.remotes, s.hub.attemptInterval = len(opts.LeafNode.Remotes), attemptIntervalOf(opts)
	return nil
}

// replaceRemotes ends the connections to the hub and begins those of the configuration file.
func replaceRemotes(s *Server, running *server.Server) error {
	without, err := readReloaded(s)
	if err != nil {
		return err
	}
	without.LeafNode.Remotes = nil
	opts, err := readReloaded(s)
	if err != nil {
		return err
	}
	if err := running.ReloadOptions(without); err != nil {
		return err
	}
	return running.ReloadOptions(opts)
}

// readReloaded returns the options of the configuration file for the server that runs.
func readReloaded(s *Server) (*server.Options, error) {
	opts, err := readOptions(s.configFile, s.key, s.log)
	if err != nil {
		return nil, err
	}
	s.hub.apply(opts)
	encrypt(opts, s.storeKey)
	account := server.DEFAULT_GLOBAL_ACCOUNT
	if own := ownAccount(opts); own != nil {
		account = own.Name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if account != s.hub.account {
		return nil, fmt.Errorf("nats.configFile %s: leafnodes.remotes: account %s, was %s: %w", s.configFile, account, s.hub.account, errNeedsRestart)
	}
	return opts, nil
}
