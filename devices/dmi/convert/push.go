package convert

import (
	"fmt"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// convertPush converts the push methods of a property that its mapper carries out itself. It
// leaves out web hooks and MQTT, which the leaf serves for devices of every protocol.
func convertPush(p *v1beta1.PushMethod) (*pb.PushMethod, error) {
	if p == nil || p.DBMethod == nil && p.OTEL == nil && p.AnomalyDetection == nil {
		return nil, nil
	}
	m := &pb.PushMethod{DbMethod: convertDB(p.DBMethod)}
	if p.OTEL != nil {
		m.Otel = &pb.PushMethodOTEL{EndpointURL: p.OTEL.EndpointURL}
	}
	if p.AnomalyDetection != nil {
		data, err := pack(p.AnomalyDetection.Data)
		if err != nil {
			return nil, fmt.Errorf("anomaly detection: %w", err)
		}
		m.AnomalyDetection = &pb.AnomalyDetection{Data: data.Data}
	}
	return m, nil
}

func convertDB(db *v1beta1.DBMethodConfig) *pb.DBMethod {
	if db == nil {
		return nil
	}
	m := &pb.DBMethod{}
	if x := db.Influxdb2; x != nil {
		m.Influxdb2 = &pb.DBMethodInfluxdb2{}
		if c := x.Influxdb2ClientConfig; c != nil {
			m.Influxdb2.Influxdb2ClientConfig = &pb.Influxdb2ClientConfig{Url: c.URL, Org: c.Org, Bucket: c.Bucket}
		}
		if c := x.Influxdb2DataConfig; c != nil {
			m.Influxdb2.Influxdb2DataConfig = &pb.Influxdb2DataConfig{Measurement: c.Measurement, Tag: c.Tag, FieldKey: c.FieldKey}
		}
	}
	if x := db.Redis; x != nil {
		m.Redis = &pb.DBMethodRedis{}
		if c := x.RedisClientConfig; c != nil {
			m.Redis.RedisClientConfig = &pb.RedisClientConfig{
				Addr: c.Addr, Db: int32(c.DB), Poolsize: int32(c.Poolsize), MinIdleConns: int32(c.MinIdleConns),
			}
		}
	}
	if x := db.TDEngine; x != nil {
		m.Tdengine = &pb.DBMethodTDEngine{}
		if c := x.TDEngineClientConfig; c != nil {
			m.Tdengine.TdEngineClientConfig = &pb.TDEngineClientConfig{Addr: c.Addr, Dbname: c.DBName}
		}
	}
	if x := db.Mysql; x != nil {
		m.Mysql = &pb.DBMethodMySQL{}
		if c := x.MySQLClientConfig; c != nil {
			m.Mysql.MysqlClientConfig = &pb.MySQLClientConfig{Addr: c.Addr, Database: c.Database, UserName: c.UserName}
		}
	}
	return m
}
