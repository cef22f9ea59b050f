package host

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Whatever is asked, only writable properties of the method, within their bounds, are
// planned, each once.
func TestAdmitPlansOnlyWhatIsAllowed(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	rapid.Check(t, func(t *rapid.T) {
		def := devices.Definition{Device: devices.Ref{UID: "u"}}
		for _, n := range names[:rapid.IntRange(0, 4).Draw(t, "points")] {
			def.Points = append(def.Points, devices.Point{Name: n, Type: v1beta1.INT, Writable: rapid.Bool().Draw(t, "rw"), Minimum: "0", Maximum: "5"})
		}
		def.Methods = []v1beta1.DeviceMethod{{Name: "m", PropertyNames: rapid.SliceOf(rapid.SampledFrom(names)).Draw(t, "method")}}
		c := devices.Command{ID: "i", Method: rapid.SampledFrom([]string{"", "m", "n"}).Draw(t, "name"), Properties: map[string]string{}}
		for _, n := range rapid.SliceOf(rapid.SampledFrom(names)).Draw(t, "asked") {
			c.Properties[n] = fmt.Sprint(rapid.IntRange(-1, 6).Draw(t, "value"))
		}
		now := time.Now()
		p, no := admit(c, now.Add(time.Minute), def, now)
		if no != nil {
			if p != nil {
				t.Fatal("refused and planned")
			}
			return
		}
		if len(p) != len(c.Properties) || c.Method == "n" {
			t.Fatalf("%v of %v", p, c)
		}
		seen := map[string]bool{}
		for _, i := range p {
			q := def.Points[i]
			v, asked := c.Properties[q.Name]
			in := c.Method == ""
			for _, n := range def.Methods[0].PropertyNames {
				in = in || n == q.Name
			}
			if !asked || seen[q.Name] || !q.Writable || !in || v == "-1" || v == "6" {
				t.Fatalf("%s=%s is planned: %+v of %+v", q.Name, v, c, def)
			}
			seen[q.Name] = true
		}
	})
}
