package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"
	"google.golang.org/protobuf/types/known/wrapperspb"

	dmi "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

const (
	defaultCycle   = time.Second
	defaultTimeout = 5 * time.Second
	shortestCycle  = 10 * time.Millisecond
)

// settings are the settings of a device.
type settings struct {
	url       string
	timeout   time.Duration
	variables []variable
}

// variable is the OPC UA variable of one property.
type variable struct {
	property string
	node     *ua.NodeID
	writable bool
	cycle    time.Duration
}

// parse reads the settings of a device. It returns all errors at once.
func parse(d *dmi.Device, model *dmi.DeviceModel) (settings, error) {
	var errs []error
	protocol := texts(d.GetSpec().GetProtocol().GetConfigData())
	s := settings{url: protocol["url"], timeout: defaultTimeout}
	if !strings.HasPrefix(s.url, "opc.tcp://") {
		errs = append(errs, fmt.Errorf("protocol.configData.url: %q: must be opc.tcp://host:port", s.url))
	}
	if t := protocol["timeout"]; t != "" {
		ms, err := strconv.ParseFloat(t, 64)
		if err != nil || ms < 1 {
			errs = append(errs, fmt.Errorf("protocol.configData.timeout: %q: must be milliseconds", t))
		}
		s.timeout = time.Duration(ms * float64(time.Millisecond))
	}
	writable := map[string]bool{}
	for _, p := range model.GetSpec().GetProperties() {
		writable[p.GetName()] = strings.EqualFold(p.GetAccessMode(), "ReadWrite")
	}
	for _, p := range d.GetSpec().GetProperties() {
		text := texts(p.GetVisitors().GetConfigData())["nodeid"]
		node, err := ua.ParseNodeID(text)
		if err != nil || text == "" {
			errs = append(errs, fmt.Errorf("%s: visitors.configData.nodeID: %q: must be a node id such as ns=2;s=Speed", p.GetName(), text))
			continue
		}
		cycle := time.Duration(p.GetCollectCycle()) * time.Millisecond
		if cycle <= 0 {
			cycle = defaultCycle
		}
		s.variables = append(s.variables, variable{
			property: p.GetName(), node: node, writable: writable[p.GetName()], cycle: max(cycle, shortestCycle),
		})
	}
	return s, errors.Join(errs...)
}

// texts converts free-form settings to strings, by key in lower case.
func texts(v *dmi.CustomizedValue) map[string]string {
	all := map[string]string{}
	for k, packed := range v.GetData() {
		m, err := packed.UnmarshalNew()
		if err != nil {
			continue // no setting has this type
		}
		k = strings.ToLower(k)
		switch t := m.(type) {
		case *wrapperspb.StringValue:
			all[k] = t.GetValue()
		case *wrapperspb.FloatValue:
			all[k] = strconv.FormatFloat(float64(t.GetValue()), 'f', -1, 32)
		case *wrapperspb.Int64Value:
			all[k] = strconv.FormatInt(t.GetValue(), 10)
		case *wrapperspb.Int32Value:
			all[k] = strconv.FormatInt(int64(t.GetValue()), 10)
		case *wrapperspb.BoolValue:
			all[k] = strconv.FormatBool(t.GetValue())
		}
	}
	return all
}
