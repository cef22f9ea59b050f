package bridgetest

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// reservesRoom fills the hub: the Site that is created then gets a condition, its desired state,
// and streams once there is room. A Site's limits are validated and followed.
func reservesRoom(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	w.awaitCondition("plant-a", v1alpha1.ConditionStorageReserved, v1alpha1.ReasonReserved)
	limit := func(value string) error {
		patch := []byte(`{"spec":{"limits":{"hubStorage":"` + value + `"}}}`)
		_, err := w.dynamic.Resource(sitesGVR).Patch(w.ctx, "plant-a", types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}
	for _, bad := range []string{"19Mi", "much", "-1Gi"} {
		if err := limit(bad); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.limits.hubStorage") {
			t.Errorf("hubStorage %q: %v, want it refused with the field's name", bad, err)
		}
	}
	refusesBudgets(t, w)
	w.must(limit("20Mi"))
	eventually(t, "room as the Site says", func() bool {
		s, err := w.js.Stream(w.ctx, streams.Telemetry("plant-a"))
		return err == nil && s.CachedInfo().Config.MaxBytes == 16<<20
	})
	const others = 200 << 20 // QUARANTINE, and the site's streams
	_, err := w.js.CreateStream(w.ctx, jetstream.StreamConfig{Name: "FILLER", Subjects: []string{"filler"}, MaxBytes: natstest.MaxFileStore - others})
	w.must(err)
	for i := range 12 { // more than the rest has room for
		w.createSite("plant-" + string(rune('c'+i)))
	}
	last := "plant-n"
	w.awaitCondition(last, v1alpha1.ConditionStorageReserved, v1alpha1.ReasonNoRoom)
	w.awaitCondition("plant-a", v1alpha1.ConditionStorageReserved, v1alpha1.ReasonReserved)
	if _, err := w.js.Consumer(w.ctx, streams.Desired, last); err != nil {
		t.Errorf("consumer of the site without streams: %v", err)
	}
	w.must(w.js.DeleteStream(w.ctx, "FILLER"))
	w.awaitCondition(last, v1alpha1.ConditionStorageReserved, v1alpha1.ReasonReserved)
}

// refusesBudgets gives the Site budgets that cannot be kept, and then one that can: without a leaf, it is
// not confirmed.
func refusesBudgets(t *testing.T, w *world) {
	t.Helper()
	budget := func(value string) error {
		patch := []byte(`{"spec":{"link":{"dailyBytes":` + value + `}}}`)
		_, err := w.dynamic.Resource(sitesGVR).Patch(w.ctx, "plant-a", types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}
	for _, bad := range []string{`"much"`, `"-20M"`, `"0"`, `"1999k"`, `"2P"`, `"20 M"`, `20000000`, `""`} {
		if err := budget(bad); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.link.dailyBytes") {
			t.Errorf("dailyBytes %s: %v, want it refused with the field's name", bad, err)
		}
	}
	w.must(budget(`"2M"`))
	w.awaitCondition("plant-a", v1alpha1.ConditionWithinBudget, v1alpha1.ReasonNotConfirmed)
	w.must(budget("null"))
}
