package site

import (
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/metrics"
)

// Metrics are the leading bridge's metrics of each Site: one series for each row of
// siteGauges, for each reason for which its reports were quarantined, and for each rate. Deleted Sites have
// none.
type Metrics struct {
	mu          sync.Mutex
	sites       map[string]v1alpha1.SiteStatus
	used        map[string]float64
	quarantined map[string]map[string]uint64
	limited     map[string]map[string]uint64
}

// NewMetrics returns metrics without sites.
func NewMetrics() *Metrics {
	return &Metrics{sites: map[string]v1alpha1.SiteStatus{}, used: map[string]float64{}, quarantined: map[string]map[string]uint64{}, limited: map[string]map[string]uint64{}}
}

var quarantinedDesc = desc("site_reports_quarantined_total", "Reports of the site that this bridge moved to QUARANTINE, by reason.", "site", "reason")

var limitedDesc = desc("site_reports_limited_total", "Reports of the site beyond a rate: event_rate (dropped) or write_rate (each delay of a report).", "site", "limit")

var usedDesc = desc("site_hub_used_ratio", "How full the fullest of the site's streams at the hub is, 0 to 1, within a minute. Telemetry that is full drops its oldest records.", "site")

// CountQuarantined counts a report of a site that was moved to QUARANTINE.
func (m *Metrics) CountQuarantined(site, reason string) {
	m.count(m.quarantined, site, reason)
}

// CountLimited counts a report of a site that was dropped or delayed at a rate.
func (m *Metrics) CountLimited(site, limit string) {
	m.count(m.limited, site, limit)
}

func (m *Metrics) count(counts map[string]map[string]uint64, site, label string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if counts[site] == nil {
		counts[site] = map[string]uint64{}
	}
	counts[site][label]++
}

// set updates the status of a site, and the fraction of its room at the hub that it uses.
func (m *Metrics) set(site string, status v1alpha1.SiteStatus, used float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sites[site], m.used[site] = status, used
}

// retain drops the sites that no longer exist.
func (m *Metrics) retain(exists func(site string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for site := range m.sites {
		if !exists(site) {
			delete(m.sites, site)
			delete(m.used, site)
		}
	}
	for _, counts := range []map[string]map[string]uint64{m.quarantined, m.limited} {
		maps.DeleteFunc(counts, func(site string, _ map[string]uint64) bool { return !exists(site) })
	}
}

// Clear drops the status of all sites.
func (m *Metrics) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.sites)
	clear(m.used)
}

// siteGauge is one metric of each site.
type siteGauge struct {
	desc  *prometheus.Desc
	value func(s v1alpha1.SiteStatus, now time.Time) float64
}

// siteGauges lists the metrics of each site.
var siteGauges = []siteGauge{
	siteValue("connected", "Whether the site is connected: 1 or 0.", func(s v1alpha1.SiteStatus) float64 { return metrics.Bool(s.Connected) }),
	{desc("site_since_seconds", "Time since the site connected or disconnected.", "site"), func(s v1alpha1.SiteStatus, now time.Time) float64 {
		if s.Since == nil {
			return 0
		}
		return age(s.Since.Time, now)
	}},
	siteValue("synced", "The condition Synced of the site: 1 or 0.", func(s v1alpha1.SiteStatus) float64 {
		return metrics.Bool(meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionSynced))
	}),
	siteValue("healthy", "The condition Healthy of the site: 1 or 0.", func(s v1alpha1.SiteStatus) float64 {
		return metrics.Bool(meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionHealthy))
	}),
	siteValue("storage_reserved", "The condition StorageReserved of the site: 1 or 0.", func(s v1alpha1.SiteStatus) float64 {
		return metrics.Bool(meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionStorageReserved))
	}),
	siteValue("nodes", "Nodes of the site.", func(s v1alpha1.SiteStatus) float64 { return float64(s.Nodes) }),
	siteValue("pending_objects", "Objects that the site has not stored.", func(s v1alpha1.SiteStatus) float64 { return float64(s.Pending) }),
	{desc("site_oldest_pending_seconds", "Age of the oldest object that the site has not stored, 0 if there is none.", "site"), func(s v1alpha1.SiteStatus, now time.Time) float64 {
		if s.OldestPending == nil {
			return 0
		}
		return age(s.OldestPending.Time, now)
	}},
	siteValue("unapplied_messages", "Messages that the site has stored but not applied.", func(s v1alpha1.SiteStatus) float64 { return float64(s.Unapplied) }),
	siteValue("unobserved_objects", "Pods and devices of the site whose status belongs to an older version.", func(s v1alpha1.SiteStatus) float64 { return float64(s.Unobserved) }),
	siteValue("reported_pending_objects", "Reports that wait at the site for the link.", func(s v1alpha1.SiteStatus) float64 { return float64(s.ReportedPending) }),
	siteValue("telemetry_pending_records", "Telemetry records that wait at the site for the link.", func(s v1alpha1.SiteStatus) float64 { return float64(s.TelemetryPending) }),
	siteValue("quarantined_messages", "Messages that the leaf could not read since it started.", func(s v1alpha1.SiteStatus) float64 { return float64(s.Quarantined) }),
	siteValue("dropped_records", "Records that the site dropped at a limit, since its store was created.", func(s v1alpha1.SiteStatus) float64 { return float64(s.Dropped) }),
	siteValue("manifest_mismatches", "Comparisons that found a difference, since the Site was created.", func(s v1alpha1.SiteStatus) float64 { return float64(s.Mismatches) }),
	siteValue("link_day_bytes", "Bytes of the site's link on the last day that its leaf has reported, in both directions, rounded up to kilobytes.", func(s v1alpha1.SiteStatus) float64 {
		if s.Traffic == nil {
			return 0
		}
		return s.Traffic.Bytes.AsApproximateFloat64()
	}),
	siteValue("link_budget_bytes", "What the site's link may carry on one day as far as its leaf knows, 0 for any number of bytes.", func(s v1alpha1.SiteStatus) float64 {
		if s.Traffic == nil || s.Traffic.DailyBytes == nil {
			return 0
		}
		return s.Traffic.DailyBytes.AsApproximateFloat64()
	}),
	siteValue("within_budget", "Whether nothing waits at the site because of the budget of its link: 1 or 0.", func(s v1alpha1.SiteStatus) float64 {
		return metrics.Bool(!meta.IsStatusConditionFalse(s.Conditions, v1alpha1.ConditionWithinBudget))
	}),
	siteValue("duplicate_identity", "Whether two leaves use the name of the site: 1 or 0.", func(s v1alpha1.SiteStatus) float64 {
		c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionHealthy)
		return metrics.Bool(c != nil && c.Reason == v1alpha1.ReasonDuplicateIdentity)
	}),
}

func siteValue(name, help string, value func(v1alpha1.SiteStatus) float64) siteGauge {
	return siteGauge{desc("site_"+name, help, "site"), func(s v1alpha1.SiteStatus, _ time.Time) float64 { return value(s) }}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("petiole", "bridge", name), help, labels, nil)
}

// age returns the seconds since a time, 0 if it is in the future.
func age(since, now time.Time) float64 { return max(0, now.Sub(since).Seconds()) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range siteGauges {
		ch <- g.desc
	}
	ch <- usedDesc
	ch <- quarantinedDesc
	ch <- limitedDesc
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for site, status := range m.sites {
		for _, g := range siteGauges {
			ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(status, now), site)
		}
	}
	for site, used := range m.used {
		ch <- prometheus.MustNewConstMetric(usedDesc, prometheus.GaugeValue, used, site)
	}
	for d, counts := range map[*prometheus.Desc]map[string]map[string]uint64{quarantinedDesc: m.quarantined, limitedDesc: m.limited} {
		for site, labels := range counts {
			for label, n := range labels {
				ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), site, label)
			}
		}
	}
}
