package convert

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi/dmitest"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// TestConvert: the model's settings are merged with their keys as they are written;
// mappers of all versions find what they look into unasked.
func TestConvert(t *testing.T) {
	d := dmitest.Pump("a", dmitest.Desiring("speed", "1500"), func(d *v1beta1.Device) {
		d.Spec.Methods = []v1beta1.DeviceMethod{{Name: "go", PropertyNames: []string{"running"}}}
		d.Spec.Properties[0].ReportToCloud = false
		d.Spec.Properties[0].PushMethod = &v1beta1.PushMethod{MQTT: &v1beta1.PushMethodMQTT{Address: "tcp://b:1883", Topic: "t", QoS: 1}}
		d.Spec.Properties[1].PushMethod = &v1beta1.PushMethod{OTEL: &v1beta1.PushMethodOTEL{EndpointURL: "u"}}
	})
	def := dmitest.Resolve(d, dmitest.Model())
	b, err := Device(def, nil, map[string]SentValue{"speed": {Value: "1500", Time: 77}})
	if err != nil {
		t.Fatal(err)
	}
	spec := b.Device.GetSpec()
	wantSettings(t, spec.GetProtocol().GetConfigData(), map[string]proto.Message{
		"host": wrapperspb.String("10.0.0.1"), "port": wrapperspb.Float(4841), "timeout": wrapperspb.Float(1000),
	})
	flow, speed := spec.GetProperties()[0], spec.GetProperties()[1]
	wantSettings(t, flow.GetVisitors().GetConfigData(), map[string]proto.Message{
		"Thought": wrapperspb.String("inflow"), "scale": wrapperspb.Float(0.5),
	})
	if flow.GetVisitors().GetProtocolName() != "telepathy" || spec.GetProtocol().GetProtocolName() != "telepathy" {
		t.Error("protocol name is missing")
	}
	if speed.GetVisitors().GetConfigData() == nil || flow.GetDesired() == nil || b.Device.GetStatus() == nil {
		t.Error("mappers would stumble over something that is not there")
	}
	if speed.GetDesired().GetValue() != "1500" || speed.GetDesired().GetMetadata()["timestamp"] != "77" || speed.GetDesired().GetMetadata()["type"] != "int" {
		t.Errorf("desired: %v", speed.GetDesired())
	}
	if !flow.GetReportToCloud() || !b.Device.GetStatus().GetReportToCloud() {
		t.Error("the mapper is not asked for reports")
	}
	if flow.GetPushMethod() != nil || speed.GetPushMethod().GetOtel().GetEndpointURL() != "u" || flow.GetCollectCycle() != 50 {
		t.Errorf("property: %v", flow)
	}
	if spec.GetDeviceModelReference() != "pump" || b.Device.GetNamespace() != "default" || spec.GetMethods()[0].GetName() != "go" {
		t.Errorf("device: %v", b.Device)
	}
	if got := b.Model.GetSpec().GetProperties()[1]; got.GetType() != "INT" || got.GetMaximum() != "3000" || got.GetAccessMode() != "ReadWrite" {
		t.Errorf("model: %v", got)
	}
	again, err := Device(dmitest.Resolve(d, dmitest.Model()), nil, map[string]SentValue{"speed": {Value: "1500", Time: 77}})
	if err != nil || again.Digest != b.Digest {
		t.Error("the same device has two digests")
	}
	other, err := Device(def, nil, nil)
	if err != nil || other.Digest == b.Digest {
		t.Error("two devices have one digest")
	}
}

func wantSettings(t *testing.T, got *pb.CustomizedValue, want map[string]proto.Message) {
	t.Helper()
	if len(got.GetData()) != len(want) {
		t.Errorf("settings %v, want %v", got.GetData(), want)
	}
	for k, w := range want {
		m, err := got.GetData()[k].UnmarshalNew()
		if err != nil || !proto.Equal(m, w) {
			t.Errorf("setting %s is %v (%v), want %v", k, m, err, w)
		}
		if !strings.HasPrefix(got.GetData()[k].GetTypeUrl(), "type.googleapis.com/google.protobuf.") {
			t.Errorf("setting %s has type %s", k, got.GetData()[k].GetTypeUrl())
		}
	}
}

// TestWrap: numbers are FloatValues, as KubeEdge sends them, unless an integer would be
// another one then.
func TestWrap(t *testing.T) {
	for _, x := range []struct {
		in   any
		want proto.Message
	}{
		{"text", wrapperspb.String("text")},
		{true, wrapperspb.Bool(true)},
		{json.Number("502"), wrapperspb.Float(502)},
		{json.Number("-0.25"), wrapperspb.Float(-0.25)},
		{json.Number("0.1"), wrapperspb.Float(0.1)},
		{json.Number("16777216"), wrapperspb.Float(16777216)},
		{json.Number("16777217"), wrapperspb.Int64(16777217)},
		{json.Number("-9223372036854775807"), wrapperspb.Int64(-9223372036854775807)},
		{json.Number("9223372036854775807"), wrapperspb.Int64(math.MaxInt64)},
		{float64(7), wrapperspb.Float(7)},
		{int(16777217), wrapperspb.Int64(16777217)},
		{uint16(9), wrapperspb.Float(9)},
	} {
		got, err := wrap(x.in)
		if err != nil || !proto.Equal(got, x.want) {
			t.Errorf("%v is %T %v (%v), want %T %v", x.in, got, got, err, x.want, x.want)
		}
	}
	for _, x := range []any{[]any{"a"}, map[string]any{}, json.Number("1e300"), json.Number("x"), struct{}{}} {
		if got, err := wrap(x); err == nil {
			t.Errorf("%v is %v", x, got)
		}
	}
}

// TestPush: every push method reaches the mapper but those that the leaf serves.
func TestPush(t *testing.T) {
	var p v1beta1.PushMethod
	dmitest.Decode(`{
		"http": {"hostName": "h"}, "mqtt": {"address": "a"}, "otel": {"endpointURL": "u"},
		"dbMethod": {
			"influxdb2": {"influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"}, "influxdb2DataConfig": {"measurement": "m", "tag": {"k": "v"}, "fieldKey": "f"}},
			"redis": {"redisClientConfig": {"addr": "a", "db": 1, "poolsize": 2, "minIdleConns": 3}},
			"TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "d"}},
			"mysql": {"mysqlClientConfig": {"addr": "a", "database": "d", "userName": "u"}}
		},
		"anomalyDetection": {"limit": 3}
	}`, &p)
	got, err := convertPush(&p)
	if err != nil {
		t.Fatal(err)
	}
	want := &pb.PushMethod{
		Otel: &pb.PushMethodOTEL{EndpointURL: "u"},
		DbMethod: &pb.DBMethod{
			Influxdb2: &pb.DBMethodInfluxdb2{
				Influxdb2ClientConfig: &pb.Influxdb2ClientConfig{Url: "u", Org: "o", Bucket: "b"},
				Influxdb2DataConfig:   &pb.Influxdb2DataConfig{Measurement: "m", Tag: map[string]string{"k": "v"}, FieldKey: "f"},
			},
			Redis:    &pb.DBMethodRedis{RedisClientConfig: &pb.RedisClientConfig{Addr: "a", Db: 1, Poolsize: 2, MinIdleConns: 3}},
			Tdengine: &pb.DBMethodTDEngine{TdEngineClientConfig: &pb.TDEngineClientConfig{Addr: "a", Dbname: "d"}},
			Mysql:    &pb.DBMethodMySQL{MysqlClientConfig: &pb.MySQLClientConfig{Addr: "a", Database: "d", UserName: "u"}},
		},
		AnomalyDetection: got.GetAnomalyDetection(),
	}
	if !proto.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	wantSettings(t, &pb.CustomizedValue{Data: got.GetAnomalyDetection().GetData()}, map[string]proto.Message{"limit": wrapperspb.Float(3)})
}

// TestFormatValue: what a mapper gets is what KubeEdge's mappers parse.
func TestFormatValue(t *testing.T) {
	for _, x := range []struct {
		typ      v1beta1.PropertyType
		in, want string // want is empty: an error
	}{
		{v1beta1.INT, "12", "12"},
		{v1beta1.INT, " 12.0 ", "12"},
		{v1beta1.INT, "1e3", "1000"},
		{v1beta1.INT, "9223372036854775808", ""},
		{v1beta1.INT, "1.5", ""},
		{v1beta1.BOOLEAN, "1", "1"},
		{v1beta1.BOOLEAN, "On", "true"},
		{v1beta1.BOOLEAN, "off", "false"},
		{v1beta1.BOOLEAN, "x", ""},
		{v1beta1.FLOAT, "21.5 ", "21.5"},
		{v1beta1.FLOAT, "1e39", ""},
		{v1beta1.DOUBLE, "1e39", "1e39"},
		{v1beta1.DOUBLE, "", ""},
		{v1beta1.STRING, " a ", " a "},
	} {
		got, err := FormatValue(x.typ, x.in)
		if got != x.want || (err != nil) != (x.want == "") {
			t.Errorf("%s %q is %q (%v), want %q", x.typ, x.in, got, err, x.want)
		}
	}
}

// TestSame: desired and reported values are compared as their type is.
func TestSame(t *testing.T) {
	for _, x := range []struct {
		typ               v1beta1.PropertyType
		reported, desired string
		want              bool
	}{
		{v1beta1.FLOAT, "21.100000381469727", "21.1", true},
		{v1beta1.FLOAT, "21.1", "21.10", true},
		{v1beta1.DOUBLE, "21.100000381469727", "21.1", false},
		{v1beta1.INT, "12.0", "12", true},
		{v1beta1.INT, "9223372036854775807", "9223372036854775806", false},
		{v1beta1.INT, "18446744073709551615", "18446744073709551615", true},
		{v1beta1.BOOLEAN, "1", "true", true},
		{v1beta1.BOOLEAN, "false", "true", false},
		{v1beta1.STRING, "a ", "a", false},
		{v1beta1.BYTES, "AF01", "af01", true},
		{v1beta1.INT, "", "0", false},
	} {
		v, _ := ParseValue(x.typ, x.reported)
		if got := Same(x.typ, v, x.desired); got != x.want {
			t.Errorf("%s: reported %q, desired %q: %v", x.typ, x.reported, x.desired, got)
		}
	}
}
