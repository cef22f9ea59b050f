package modbus

import (
	"context"
	"errors"
	"sync"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/scan"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// maxUnit is the highest address of a unit on a serial line.
const maxUnit = 247

// CheckConnection reports what is wrong with the settings of a connection.
func CheckConnection(config devices.Settings) error {
	_, err := readConnection(config)
	return err
}

// readConnection reads the settings of a connection. An unknown one is an error.
func readConnection(config devices.Settings) (settings, error) {
	var review devices.Review
	r := review.Start(config)
	s := readSettings(r)
	errs := []error{r.Err()}
	for _, p := range unknown(devices.Definition{}, "", &review) {
		errs = append(errs, errors.New(p.Message))
	}
	return s, errors.Join(errs...)
}

// Scan finds the units at an endpoint, and what can be read from them, over a link of its own.
// Config has the settings of the connection. Without units in the options it scans unit 1 of a
// network device, and all units of a serial line. It only reads.
func Scan(ctx context.Context, config devices.Settings, o scan.Options) ([]scan.Unit, error) {
	s, err := readConnection(config)
	if err != nil {
		return nil, err
	}
	s.MinTimeout = s.Timeout // units differ
	if len(o.Units) == 0 {
		o.Units = []byte{1}
		for id := byte(2); !s.endpoint.Mode.Numbered() && id <= maxUnit; id++ {
			o.Units = append(o.Units, id)
		}
	}
	l := link.New(s.endpoint, &wire.Unanswered{}, func() int { return 1 }, zap.NewNop())
	lctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(lctx) })
	defer wg.Wait()
	defer stop()
	return scan.Run(ctx, l, &s.Settings, o)
}
