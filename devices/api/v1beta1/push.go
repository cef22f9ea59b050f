package v1beta1

// PushMethod has the destinations of samples in addition to the cloud. KubeEdge's mappers use
// at most one of http, mqtt, otel and dbMethod.
type PushMethod struct {
	HTTP             *PushMethodHTTP  `json:"http,omitempty"`
	MQTT             *PushMethodMQTT  `json:"mqtt,omitempty"`
	OTEL             *PushMethodOTEL  `json:"otel,omitempty"`
	DBMethod         *DBMethodConfig  `json:"dbMethod,omitempty"`
	AnomalyDetection *CustomizedValue `json:"anomalyDetection,omitempty"`
}

// PushMethodHTTP is a web hook. Timeout is in milliseconds.
type PushMethodHTTP struct {
	HostName    string `json:"hostName,omitempty"`
	Port        int64  `json:"port,omitempty"`
	RequestPath string `json:"requestPath,omitempty"`
	Timeout     int64  `json:"timeout,omitempty"`
}

// PushMethodMQTT is an MQTT broker and topic.
type PushMethodMQTT struct {
	Address  string `json:"address,omitempty"`
	Topic    string `json:"topic,omitempty"`
	QoS      int32  `json:"qos,omitempty"`
	Retained bool   `json:"retained,omitempty"`
}

// PushMethodOTEL is an OpenTelemetry endpoint.
type PushMethodOTEL struct {
	EndpointURL string `json:"endpointURL,omitempty"`
}

// DBMethodConfig is a database.
type DBMethodConfig struct {
	Influxdb2 *DBMethodInfluxdb2 `json:"influxdb2,omitempty"`
	Redis     *DBMethodRedis     `json:"redis,omitempty"`
	TDEngine  *DBMethodTDEngine  `json:"TDEngine,omitempty"`
	Mysql     *DBMethodMySQL     `json:"mysql,omitempty"`
}

// DBMethodInfluxdb2 is an InfluxDB 2 bucket.
type DBMethodInfluxdb2 struct {
	Influxdb2ClientConfig *Influxdb2ClientConfig `json:"influxdb2ClientConfig,omitempty"`
	Influxdb2DataConfig   *Influxdb2DataConfig   `json:"influxdb2DataConfig,omitempty"`
}

// Influxdb2ClientConfig is the location of the bucket.
type Influxdb2ClientConfig struct {
	URL    string `json:"url,omitempty"`
	Org    string `json:"org,omitempty"`
	Bucket string `json:"bucket,omitempty"`
}

// Influxdb2DataConfig names the measurement, tags and field of samples in the bucket.
type Influxdb2DataConfig struct {
	Measurement string            `json:"measurement,omitempty"`
	Tag         map[string]string `json:"tag,omitempty"`
	FieldKey    string            `json:"fieldKey,omitempty"`
}

// DBMethodRedis is a Redis database.
type DBMethodRedis struct {
	RedisClientConfig *RedisClientConfig `json:"redisClientConfig,omitempty"`
}

// RedisClientConfig is the location of the database.
type RedisClientConfig struct {
	Addr         string `json:"addr,omitempty"`
	DB           int    `json:"db,omitempty"`
	Poolsize     int    `json:"poolsize,omitempty"`
	MinIdleConns int    `json:"minIdleConns,omitempty"`
}

// DBMethodTDEngine is a TDengine database.
type DBMethodTDEngine struct {
	TDEngineClientConfig *TDEngineClientConfig `json:"TDEngineClientConfig,omitempty"`
}

// TDEngineClientConfig is the location of the database.
type TDEngineClientConfig struct {
	Addr   string `json:"addr,omitempty"`
	DBName string `json:"dbName,omitempty"`
}

// DBMethodMySQL is a MySQL database.
type DBMethodMySQL struct {
	MySQLClientConfig *MySQLClientConfig `json:"mysqlClientConfig,omitempty"`
}

// MySQLClientConfig is the location of the database.
type MySQLClientConfig struct {
	Addr     string `json:"addr,omitempty"`
	Database string `json:"database,omitempty"`
	UserName string `json:"userName,omitempty"`
}
