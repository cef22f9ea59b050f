package v1beta1_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	// The kubelet's device plugin API, whose proto package is v1beta1 too, must fit into
	// the same program: registering a name twice panics.
	_ "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	. "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// wire is a message's encoding, written field by field with the numbers of KubeEdge's
// interface.
type wire []byte

func (w wire) text(n protowire.Number, s string) wire { return w.bytes(n, []byte(s)) }

func (w wire) bytes(n protowire.Number, b []byte) wire {
	return protowire.AppendBytes(protowire.AppendTag(w, n, protowire.BytesType), b)
}

func (w wire) varint(n protowire.Number, v uint64) wire {
	return protowire.AppendVarint(protowire.AppendTag(w, n, protowire.VarintType), v)
}

// anyOf is a google.protobuf.Any with type URL t and value v.
func anyOf(t, v string) (*anypb.Any, wire) {
	return &anypb.Any{TypeUrl: t, Value: []byte(v)}, wire{}.text(1, t).text(2, v)
}

type golden struct {
	message proto.Message
	wire    wire
}

// goldens has every message, with every field set.
func goldens() []golden {
	free, freeWire := anyOf("type.googleapis.com/google.protobuf.StringValue", "\n\x01x")
	custom := golden{&CustomizedValue{Data: map[string]*anypb.Any{"k": free}}, wire{}.bytes(1, wire{}.text(1, "k").bytes(2, freeWire))}
	anomaly := golden{&AnomalyDetection{Data: map[string]*anypb.Any{"k": free}}, wire{}.bytes(1, wire{}.text(1, "k").bytes(2, freeWire))}
	twinProperty := golden{
		&TwinProperty{Value: "21.5", Metadata: map[string]string{"type": "float"}},
		wire{}.text(1, "21.5").bytes(2, wire{}.text(1, "type").text(2, "float")),
	}
	asTwin := twinProperty.message.(*TwinProperty)
	twin := golden{
		&Twin{PropertyName: "p", ObservedDesired: asTwin, Reported: &TwinProperty{Value: "r"}},
		wire{}.text(1, "p").bytes(2, twinProperty.wire).bytes(3, wire{}.text(1, "r")),
	}
	status := golden{
		&DeviceStatus{Twins: []*Twin{twin.message.(*Twin)}, ReportToCloud: true, ReportCycle: 300},
		wire{}.bytes(1, twin.wire).varint(2, 1).varint(3, 300),
	}
	mapper := golden{
		&MapperInfo{Name: "n", Version: "v", ApiVersion: "a", Protocol: "p", Address: []byte("/s"), State: "ok"},
		wire{}.text(1, "n").text(2, "v").text(3, "a").text(4, "p").text(5, "/s").text(6, "ok"),
	}
	list := append([]golden{custom, anomaly, twinProperty, twin, status, mapper}, push(anomaly)...)
	method := golden{
		&DeviceMethod{Name: "n", Description: "d", PropertyNames: []string{"a", "b"}},
		wire{}.text(1, "n").text(2, "d").text(3, "a").text(3, "b"),
	}
	protocol := golden{
		&ProtocolConfig{ProtocolName: "opcua", ConfigData: custom.message.(*CustomizedValue)},
		wire{}.text(1, "opcua").bytes(2, custom.wire),
	}
	visitor := golden{
		&VisitorConfig{ProtocolName: "opcua", ConfigData: custom.message.(*CustomizedValue)},
		wire{}.text(1, "opcua").bytes(2, custom.wire),
	}
	pushMethod := list[len(list)-1]
	property := golden{
		&DeviceProperty{
			Name: "p", Desired: asTwin, Visitors: visitor.message.(*VisitorConfig), ReportCycle: 7, CollectCycle: 8,
			ReportToCloud: true, PushMethod: pushMethod.message.(*PushMethod),
		},
		wire{}.text(1, "p").bytes(2, twinProperty.wire).bytes(3, visitor.wire).varint(4, 7).varint(5, 8).varint(6, 1).bytes(7, pushMethod.wire),
	}
	spec := golden{
		&DeviceSpec{
			DeviceModelReference: "m", Protocol: protocol.message.(*ProtocolConfig),
			Properties: []*DeviceProperty{property.message.(*DeviceProperty)}, Methods: []*DeviceMethod{method.message.(*DeviceMethod)},
		},
		wire{}.text(1, "m").bytes(2, protocol.wire).bytes(3, property.wire).bytes(4, method.wire),
	}
	device := golden{
		&Device{Name: "d", Spec: spec.message.(*DeviceSpec), Status: status.message.(*DeviceStatus), Namespace: "ns"},
		wire{}.text(1, "d").bytes(2, spec.wire).bytes(3, status.wire).text(4, "ns"),
	}
	list = append(list, method, protocol, visitor, property, spec, device)
	return append(list, calls(mapper, device, status)...)
}

// push are the push methods; the last is PushMethod itself.
func push(anomaly golden) []golden {
	http := golden{
		&PushMethodHTTP{Hostname: "h", Port: 80, Requestpath: "/r", Timeout: 1000},
		wire{}.text(1, "h").varint(2, 80).text(3, "/r").varint(4, 1000),
	}
	mqtt := golden{
		&PushMethodMQTT{Address: "a", Topic: "t", Qos: 1, Retained: true},
		wire{}.text(1, "a").text(2, "t").varint(3, 1).varint(4, 1),
	}
	otel := golden{&PushMethodOTEL{EndpointURL: "u"}, wire{}.text(1, "u")}
	client := golden{&Influxdb2ClientConfig{Url: "u", Org: "o", Bucket: "b"}, wire{}.text(1, "u").text(2, "o").text(3, "b")}
	data := golden{
		&Influxdb2DataConfig{Measurement: "m", Tag: map[string]string{"k": "v"}, FieldKey: "f"},
		wire{}.text(1, "m").bytes(2, wire{}.text(1, "k").text(2, "v")).text(3, "f"),
	}
	influx := golden{
		&DBMethodInfluxdb2{Influxdb2ClientConfig: client.message.(*Influxdb2ClientConfig), Influxdb2DataConfig: data.message.(*Influxdb2DataConfig)},
		wire{}.bytes(1, client.wire).bytes(2, data.wire),
	}
	redisClient := golden{
		&RedisClientConfig{Addr: "a", Db: 1, Poolsize: 2, MinIdleConns: 3},
		wire{}.text(1, "a").varint(2, 1).varint(3, 2).varint(4, 3),
	}
	redis := golden{&DBMethodRedis{RedisClientConfig: redisClient.message.(*RedisClientConfig)}, wire{}.bytes(1, redisClient.wire)}
	tdClient := golden{&TDEngineClientConfig{Addr: "a", Dbname: "d"}, wire{}.text(1, "a").text(2, "d")}
	td := golden{&DBMethodTDEngine{TdEngineClientConfig: tdClient.message.(*TDEngineClientConfig)}, wire{}.bytes(1, tdClient.wire)}
	mysqlClient := golden{
		&MySQLClientConfig{Addr: "a", Database: "d", UserName: "u"},
		wire{}.text(1, "a").text(2, "d").text(3, "u"),
	}
	mysql := golden{&DBMethodMySQL{MysqlClientConfig: mysqlClient.message.(*MySQLClientConfig)}, wire{}.bytes(1, mysqlClient.wire)}
	exporter := golden{&OTELExporterConfig{EndpointURL: "u"}, wire{}.text(1, "u")}
	dbOTEL := golden{&DBMethodOTEL{OtelExporterConfig: exporter.message.(*OTELExporterConfig)}, wire{}.bytes(1, exporter.wire)}
	db := golden{
		&DBMethod{
			Influxdb2: influx.message.(*DBMethodInfluxdb2), Redis: redis.message.(*DBMethodRedis),
			Tdengine: td.message.(*DBMethodTDEngine), Mysql: mysql.message.(*DBMethodMySQL),
		},
		wire{}.bytes(1, influx.wire).bytes(2, redis.wire).bytes(3, td.wire).bytes(4, mysql.wire),
	}
	method := golden{
		&PushMethod{
			Http: http.message.(*PushMethodHTTP), Mqtt: mqtt.message.(*PushMethodMQTT), DbMethod: db.message.(*DBMethod),
			Otel: otel.message.(*PushMethodOTEL), AnomalyDetection: anomaly.message.(*AnomalyDetection),
		},
		wire{}.bytes(1, http.wire).bytes(2, mqtt.wire).bytes(3, db.wire).bytes(4, otel.wire).bytes(5, anomaly.wire),
	}
	return []golden{
		http, mqtt, otel, client, data, influx, redisClient, redis, tdClient, td, mysqlClient, mysql, exporter, dbOTEL, db, method,
	}
}

// calls are the requests and responses, and the model.
func calls(mapper, device, status golden) []golden {
	property := golden{
		&ModelProperty{Name: "n", Description: "d", Type: "INT", AccessMode: "ReadWrite", Minimum: "1", Maximum: "2", Unit: "K"},
		wire{}.text(1, "n").text(2, "d").text(3, "INT").text(4, "ReadWrite").text(5, "1").text(6, "2").text(7, "K"),
	}
	command := golden{
		&DeviceCommand{Name: "n", Url: "u", Method: "m", StatusCode: []string{"200"}, Parameters: []string{"p"}, Response: []byte("r")},
		wire{}.text(1, "n").text(2, "u").text(3, "m").text(4, "200").text(5, "p").text(6, "r"),
	}
	spec := golden{
		&DeviceModelSpec{Properties: []*ModelProperty{property.message.(*ModelProperty)}, Commands: []*DeviceCommand{command.message.(*DeviceCommand)}},
		wire{}.bytes(1, property.wire).bytes(2, command.wire),
	}
	model := golden{
		&DeviceModel{Name: "m", Spec: spec.message.(*DeviceModelSpec), Namespace: "ns"},
		wire{}.text(1, "m").bytes(2, spec.wire).text(3, "ns"),
	}
	d, m := device.message.(*Device), model.message.(*DeviceModel)
	return []golden{
		property, command, spec, model,
		{&MapperRegisterRequest{WithData: true, Mapper: mapper.message.(*MapperInfo)}, wire{}.varint(1, 1).bytes(2, mapper.wire)},
		{&MapperRegisterResponse{ModelList: []*DeviceModel{m}, DeviceList: []*Device{d}}, wire{}.bytes(1, model.wire).bytes(2, device.wire)},
		{
			&ReportDeviceStatusRequest{DeviceName: "d", ReportedDevice: status.message.(*DeviceStatus), DeviceNamespace: "ns"},
			wire{}.text(1, "d").bytes(2, status.wire).text(3, "ns"),
		},
		{&ReportDeviceStatusResponse{}, nil},
		{&ReportDeviceStatesRequest{DeviceName: "d", DeviceNamespace: "ns", State: "ok"}, wire{}.text(1, "d").text(2, "ns").text(3, "ok")},
		{&ReportDeviceStatesResponse{}, nil},
		{&RegisterDeviceRequest{Device: d}, wire{}.bytes(1, device.wire)},
		{&RegisterDeviceResponse{DeviceName: "d", DeviceNamespace: "ns"}, wire{}.text(1, "d").text(2, "ns")},
		{&RemoveDeviceRequest{DeviceName: "d", DeviceNamespace: "ns"}, wire{}.text(1, "d").text(2, "ns")},
		{&RemoveDeviceResponse{}, nil},
		{&UpdateDeviceRequest{Device: d}, wire{}.bytes(1, device.wire)},
		{&UpdateDeviceResponse{}, nil},
		{&CreateDeviceModelRequest{Model: m}, wire{}.bytes(1, model.wire)},
		{&CreateDeviceModelResponse{DeviceModelName: "m", DeviceModelNamespace: "ns"}, wire{}.text(1, "m").text(2, "ns")},
		{&RemoveDeviceModelRequest{ModelName: "m", ModelNamespace: "ns"}, wire{}.text(1, "m").text(2, "ns")},
		{&RemoveDeviceModelResponse{}, nil},
		{&UpdateDeviceModelRequest{Model: m}, wire{}.bytes(1, model.wire)},
		{&UpdateDeviceModelResponse{}, nil},
		{&GetDeviceRequest{DeviceName: "d", DeviceNamespace: "ns"}, wire{}.text(1, "d").text(2, "ns")},
		{&GetDeviceResponse{Device: d}, wire{}.bytes(1, device.wire)},
	}
}

// TestWire holds every field of every message to its number and type, in both
// directions.
func TestWire(t *testing.T) {
	tested := map[protoreflect.FullName]bool{}
	for _, g := range goldens() {
		m := g.message.ProtoReflect()
		name := m.Descriptor().FullName()
		tested[name] = true
		got, err := proto.MarshalOptions{Deterministic: true}.Marshal(g.message)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, g.wire) {
			t.Errorf("%s is encoded as\n%x, want\n%x", name, got, []byte(g.wire))
		}
		back := m.New().Interface()
		if err := proto.Unmarshal(g.wire, back); err != nil || !proto.Equal(back, g.message) {
			t.Errorf("%s is decoded as %v, %v", name, back, err)
		}
		if len(back.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%s has unknown fields", name)
		}
		for i := range m.Descriptor().Fields().Len() {
			if f := m.Descriptor().Fields().Get(i); !m.Has(f) {
				t.Errorf("%s: field %s is not tested", name, f.Name())
			}
		}
	}
	messages := File_devices_dmi_v1beta1_messages_proto.Messages()
	for i := range messages.Len() {
		if n := messages.Get(i).FullName(); !tested[n] {
			t.Errorf("%s is not tested", n)
		}
	}
}

// TestServiceNames holds the paths of the calls, which are on the wire.
func TestServiceNames(t *testing.T) {
	want := map[protoreflect.FullName][]protoreflect.Name{
		"v1beta1.DeviceManagerService": {"MapperRegister", "ReportDeviceStatus", "ReportDeviceStates"},
		"v1beta1.DeviceMapperService": {
			"RegisterDevice", "RemoveDevice", "UpdateDevice", "CreateDeviceModel", "RemoveDeviceModel", "UpdateDeviceModel", "GetDevice",
		},
	}
	descs := map[string]int{DeviceManagerService_ServiceDesc.ServiceName: 3, DeviceMapperService_ServiceDesc.ServiceName: 7}
	services := File_devices_dmi_v1beta1_services_proto.Services()
	if services.Len() != len(want) {
		t.Errorf("%d services", services.Len())
	}
	for i := range services.Len() {
		s := services.Get(i)
		names := want[s.FullName()]
		if descs[string(s.FullName())] != len(names) || s.Methods().Len() != len(names) {
			t.Errorf("%s has %d methods, want %v", s.FullName(), s.Methods().Len(), names)
			continue
		}
		for j, n := range names {
			m := s.Methods().Get(j)
			if m.Name() != n || m.Input().Name() != n+"Request" || m.Output().Name() != n+"Response" || m.IsStreamingClient() || m.IsStreamingServer() {
				t.Errorf("%s: method %s(%s) %s", s.FullName(), m.Name(), m.Input().Name(), m.Output().Name())
			}
		}
	}
	if DeviceManagerService_ReportDeviceStatus_FullMethodName != "/v1beta1.DeviceManagerService/ReportDeviceStatus" {
		t.Error(DeviceManagerService_ReportDeviceStatus_FullMethodName)
	}
}
