package site

import (
	"encoding/json"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// crdSchema is the part of a custom resource's schema that the tests need.
type crdSchema struct {
	Properties map[string]crdSchema `json:"properties"`
	Items      *crdSchema           `json:"items"`
	MaxLength  int                  `json:"maxLength"`
	MaxItems   int                  `json:"maxItems"`
	Pattern    string               `json:"pattern"`
	Enum       []string             `json:"enum"`
}

// siteStatusSchema returns the schema of a Site's status.
func siteStatusSchema(t *testing.T) crdSchema {
	t.Helper()
	data, err := os.ReadFile("../../deploy/kubernetes/crds/petiole.dev_sites.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema crdSchema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	return crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"]
}

// The API server accepts every status that can follow from a heartbeat: both have the same
// bounds.
func TestBoundsOfAHeartbeatAreThoseOfTheStatus(t *testing.T) {
	t.Parallel()
	s := siteStatusSchema(t)
	reason := s.Properties["conditions"].Items.Properties["reason"]
	if got := s.Properties["degraded"]; got.MaxItems != streams.MaxDegraded || got.Items.MaxLength != streams.MaxDegradedReason || reason.MaxLength < streams.MaxDegradedReason {
		t.Errorf("degraded is %+v of %+v, a condition's reason %+v", got, got.Items, reason)
	}
	if reason.Pattern != streams.DegradedPattern.String() {
		t.Errorf("a condition's reason matches %s, a heartbeat's %s", reason.Pattern, streams.DegradedPattern)
	}
	for _, name := range []string{"version", "boot"} {
		if n := s.Properties[name].MaxLength; n < streams.MaxPresenceName {
			t.Errorf("%s has at most %d characters, in a heartbeat %d", name, n, streams.MaxPresenceName)
		}
	}
	if n := s.Properties["resync"].Properties["requested"].MaxLength; n < antientropy.MaxResyncValue {
		t.Errorf("the value of a resync has at most %d characters, the annotation %d", n, antientropy.MaxResyncValue)
	}
	outcomes := []string{string(inventory.Equal), string(inventory.Repairing)}
	if got := s.Properties["lastCheck"].Properties["outcome"].Enum; !slices.Equal(got, outcomes) {
		t.Errorf("outcomes are %v, want %v", got, outcomes)
	}
}

func TestHeartbeatsOutOfBounds(t *testing.T) {
	t.Parallel()
	for reason, ok := range map[string]bool{
		streams.DegradedDiskFull: true, streams.DegradedStore: true, strings.Repeat("x", streams.MaxDegradedReason): true, strings.Repeat("x", streams.MaxDegradedReason+1): false,
		"": false, "disk full": false, "Disk-Full": false, "1": false, "DiskFull\n": false,
	} {
		data, err := json.Marshal(streams.Presence{Time: noon, Degraded: []string{streams.DegradedDiskFull, reason}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := streams.DecodePresence(data); (err == nil) != ok {
			t.Errorf("reason %q: %v", reason, err)
		}
	}
	for name, ok := range map[string]bool{"1.0-rc1": true, "1.0\x1b[2J": false, "1.0\nHealthy": false, "\u009b1A": false} {
		for field, p := range map[string]streams.Presence{"version": {Time: noon, Version: name}, "boot": {Time: noon, Boot: name}} {
			data, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := streams.DecodePresence(data); (err == nil) != ok {
				t.Errorf("%s %q: %v", field, name, err)
			}
		}
	}
	const most = math.MaxUint64
	data, err := json.Marshal(streams.Presence{
		Time: noon, Applied: most, AppliedHub: most, Unapplied: most, Quarantined: most, Dropped: most, ReportedPending: most, TelemetryPending: most,
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := streams.DecodePresence(data)
	if err != nil {
		t.Fatal(err)
	}
	o := connectedSite()
	o.last = b
	status, err := json.Marshal(o.status(v1alpha1.SiteStatus{}))
	if err != nil {
		t.Fatal(err)
	}
	if negative := regexp.MustCompile(`"[a-zA-Z]+":-`).FindAll(status, -1); len(negative) > 0 {
		t.Errorf("negative counts %s", negative)
	}
}
