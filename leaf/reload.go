package leaf

import (
	"errors"
	"reflect"
	"strings"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/natsd"
)

// Reload has the nats-server of a running leaf read its configuration file again, with the
// certificates and authorities that it names. Kubelet, pods and devices do not notice. cfg is the
// leaf's own configuration as it is in its file now: what has changed there counts only after a
// restart, and is logged. If Reload returns an error everything stays as it was.
func (l *Leaf) Reload(cfg Config) error {
	if changed := changedKeys(l.cfg, cfg); len(changed) > 0 {
		l.log.Warn("changes of the leaf's configuration need a restart", zap.Strings("keys", changed))
	}
	if l.cfg.NATS.ConfigFile == "" {
		return errors.New("nats.url: the nats-server outside of this process has to be reloaded itself")
	}
	server := l.server.Load()
	if server == nil {
		return errors.New("the leaf has not started yet, and reads its configuration now")
	}
	if err := natsd.Reload(server); err != nil {
		return err
	}
	l.log.Info("configuration of the nats-server reloaded", zap.String("file", l.cfg.NATS.ConfigFile))
	return nil
}

// changedKeys returns the top-level keys of a configuration file whose values differ.
func changedKeys(before, now Config) (keys []string) {
	a, b := reflect.ValueOf(before), reflect.ValueOf(now)
	for i := range a.NumField() {
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			key, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
			keys = append(keys, key)
		}
	}
	return keys
}
