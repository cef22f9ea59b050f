package join

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Reset undoes Run: it stops the leaf and removes what Run has written and, unless keepData, all
// that the leaf has stored. The Site keeps the gateway's key until it is revoked or replaced.
func Reset(ctx context.Context, m Machine, keepData bool, progress func(format string, args ...any)) error {
	release, err := m.lock()
	if err != nil {
		return err
	}
	defer release()
	s, err := m.readState()
	if err != nil {
		progress("%v", err) // the files go anyway
	}
	if m.Systemctl != nil && (s.Unit != "" || m.exists(packagedUnit)) {
		progress("stopping %s", unitName)
		if err := m.Systemctl(ctx, "disable", "--now", unitName); err != nil {
			return fmt.Errorf("stop the leaf: %w", err)
		}
	}
	var errs []error
	if s.Unit != "" {
		errs = append(errs, remove(s.Unit))
		if m.Systemctl != nil {
			errs = append(errs, m.Systemctl(ctx, "daemon-reload"))
		}
	}
	// The state goes last: with it an interrupted reset can be repeated.
	for _, name := range []string{leafYAML, leafConf, leafConf + beforeSuffix, proxyConf, kubeletYAML, caFile, credsFile, keyFile, newKeyFile, reserveFile} {
		errs = append(errs, remove(m.config(name)))
	}
	errs = append(errs, os.RemoveAll(m.config(usersDir)))
	if !keepData {
		progress("removing %s", m.DataDir)
		errs = append(errs, os.RemoveAll(m.DataDir))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := remove(m.config(stateFile)); err != nil {
		return err
	}
	if s.Site != "" {
		progress("this machine is no gateway any longer; 'kubectl petiole site revoke %s' takes its key out of the Site", s.Site)
	}
	return nil
}
