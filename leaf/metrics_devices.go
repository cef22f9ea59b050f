package leaf

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/petiole-io/petiole/leaf/field"
)

// deviceGauges reads what the devices' worker counts when somebody scrapes. No label
// names a device.
type deviceGauges struct{ field *field.Field }

var (
	descDevices         = desc("devices", "Devices of this node, by state.", "state")
	descSamples         = desc("device_samples_total", "Samples of devices that went to the queue of the store.")
	descSamplesDropped  = desc("device_batches_dropped_total", "Records of samples that were lost because the store took nothing for too long.")
	descStatuses        = desc("device_statuses_total", "DeviceStatuses that were stored.")
	descDeviceWrites    = desc("device_writes_total", "Desired values, by what became of them.", "ack")
	descDeviceCommands  = desc("device_commands_total", "Commands, by what became of them.", "ack")
	descTelemetry       = desc("telemetry_records_total", "Records of telemetry that were stored.")
	descTelemetryRetry  = desc("telemetry_refused_total", "Attempts to store telemetry that were refused or not answered, and are repeated.")
	descTelemetryCommit = desc("telemetry_commits_total", "Commits by which telemetry was stored.")
	descPushed          = desc("pushed_samples_total", "Samples of push methods, by what became of them.", "outcome")
)

// Describe implements prometheus.Collector.
func (g *deviceGauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descDevices, descSamples, descSamplesDropped, descStatuses, descDeviceWrites, descDeviceCommands,
		descTelemetry, descTelemetryRetry, descTelemetryCommit, descPushed,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *deviceGauges) Collect(out chan<- prometheus.Metric) {
	s := g.field.Stats()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for state, n := range s.Devices.Devices {
		out <- prometheus.MustNewConstMetric(descDevices, prometheus.GaugeValue, float64(n), state)
	}
	for ack, n := range s.Devices.Writes {
		count(descDeviceWrites, n, string(ack))
	}
	for ack, n := range s.Devices.Commands {
		count(descDeviceCommands, n, string(ack))
	}
	count(descSamples, s.Devices.Samples)
	count(descSamplesDropped, s.Devices.DroppedBatches)
	count(descStatuses, s.Devices.Statuses)
	count(descTelemetry, s.Records)
	count(descTelemetryRetry, s.Failed)
	count(descTelemetryCommit, s.Commits)
	var sent, refused, dropped uint64
	for _, p := range s.Push {
		sent, refused, dropped = sent+p.Sent, refused+p.Refused, dropped+p.Dropped
	}
	count(descPushed, sent, "sent")
	count(descPushed, refused, "refused")
	count(descPushed, dropped, "dropped")
}
