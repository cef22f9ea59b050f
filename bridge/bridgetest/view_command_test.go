package bridgetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	sitestatus "github.com/petiole-io/petiole/bridge/site"
	"github.com/petiole-io/petiole/cmd/kubectl-petiole/plugin"
	"github.com/petiole-io/petiole/streams"
)

// kubectl runs the plugin as somebody with a role, and returns what it prints.
func (w *world) kubectl(role string) func(args ...string) (code int, out, errOut string) {
	w.t.Helper()
	name := "somebody-" + role
	_, err := w.admin.CoreV1().ServiceAccounts(w.namespace).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	w.must(err)
	binding, err := w.admin.RbacV1().ClusterRoleBindings().Create(w.ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: name}},
	}, metav1.CreateOptions{})
	w.must(err)
	w.t.Cleanup(func() {
		w.must(w.admin.RbacV1().ClusterRoleBindings().Delete(w.ctx, binding.Name, metav1.DeleteOptions{}))
	})
	hour := int64(3600)
	token, err := w.admin.CoreV1().ServiceAccounts(w.namespace).CreateToken(w.ctx, name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	w.must(err)
	cfg, err := clientcmd.LoadFromFile(w.kubeconfig)
	w.must(err)
	cfg.AuthInfos["u"].Token = token.Status.Token
	path := filepath.Join(w.t.TempDir(), "kubeconfig")
	w.must(clientcmd.WriteToFile(*cfg, path))
	return func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := plugin.Run(w.ctx, "kubectl-petiole", append([]string{"--kubeconfig", path}, args...), genericiooptions.IOStreams{In: os.Stdin, Out: &out, ErrOut: &errOut})
		return code, out.String(), errOut.String()
	}
}

func listsBacklog(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	viewer := w.kubectl("petiole-viewer")
	eventually(t, "rights of the viewer", func() bool { code, _, _ := viewer("backlog", "plant-a"); return code == 0 })

	w.configMap("settings", "1")
	w.configMap("gone", "1")
	w.pod("web", "a1", "settings")
	gone := w.pod("gone", "a1", "gone")
	w.settled("plant-a", "web", "a1")
	w.settled("plant-a", "gone", "a1")
	// The site stores all this, and goes away.
	l := s.leaf()
	w.storedAll("plant-a")
	w.awaitCondition("plant-a", v1alpha1.ConditionSynced, v1alpha1.ReasonUpToDate)
	l.disconnect()
	if code, out, errOut := viewer("backlog", "plant-a"); code != 0 || out != "" || !strings.Contains(errOut, "has stored everything") {
		t.Errorf("without a backlog: code %d, %q, %q", code, out, errOut)
	}

	w.setConfigMap("settings", "top secret")
	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "gone", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	w.awaitDesired("plant-a", w.podRef("gone", "a1"), "deleted", tombstoneOf(gone.UID))
	w.awaitDesired("plant-a", w.configMapRef("gone"), "taken away", func(m *streams.Message) bool { return m.Op == streams.OpDelete })
	w.awaitDesired("plant-a", w.configMapRef("settings"), "changed", contains("top secret"))
	eventually(t, "backlog in the status", func() bool { return w.siteStatus("plant-a").Pending == 3 })

	code, out, errOut := viewer("backlog", "plant-a", "-o", "json")
	if code != 0 {
		t.Fatalf("code %d, %s", code, errOut)
	}
	var b v1alpha1.Backlog
	w.must(json.Unmarshal([]byte(out), &b))
	got := map[string]string{}
	for i, o := range b.Status.Items {
		got[o.Resource+"/"+o.Name] = o.Change
		if o.Namespace != w.namespace || time.Since(o.Published.Time) > time.Minute || o.Published.IsZero() || i > 0 && o.Sequence <= b.Status.Items[i-1].Sequence {
			t.Errorf("item %+v", o)
		}
		if (o.Change == "put") != (o.Bytes > 0) {
			t.Errorf("%s of %d bytes", o.Change, o.Bytes)
		}
	}
	if want := map[string]string{"configmaps/settings": "put", "pods/gone": "delete", "configmaps/gone": "delete"}; fmt.Sprint(got) != fmt.Sprint(want) || b.Status.Pending != 3 {
		t.Errorf("backlog is %v of %d, want %v", got, b.Status.Pending, want)
	}
	if strings.Contains(out, "top secret") {
		t.Error("a backlog shows contents")
	}
	_, out, _ = viewer("backlog", "plant-a", "-o", "wide")
	t.Logf("kubectl petiole backlog plant-a -o wide\n%s", out)
	if code, _, errOut := viewer("backlog", "plant-b"); code != 0 || !strings.Contains(errOut, "has stored everything") {
		t.Errorf("the backlog of another site: code %d, %s", code, errOut)
	}
	if code, _, errOut := viewer("backlog", "plant-x"); code != 1 || !strings.Contains(errOut, "(NotFound)") {
		t.Errorf("of none: code %d, %s", code, errOut)
	}
	if code, _, errOut := viewer("resync", "plant-a"); code != 1 || !strings.Contains(errOut, "(Forbidden)") {
		t.Errorf("a viewer resyncs: code %d, %s", code, errOut)
	}
	left, err := w.dynamic.Resource(v1alpha1.Backlogs).List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, o := range left.Items {
		if !strings.HasPrefix(o.GetName(), "q-") {
			t.Errorf("question %s was left behind", o.GetName())
		}
	}
	_, out, errOut = viewer("status")
	t.Logf("kubectl petiole status\n%s%s", out, errOut)
	_, out, _ = viewer("status", "plant-a")
	t.Logf("kubectl petiole status plant-a\n%s", out)
}

// question asks for a backlog and returns the name of the Backlog.
func question(t *testing.T, a *api, q v1alpha1.BacklogSpec) string {
	t.Helper()
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&q)
	if err != nil {
		t.Fatal(err)
	}
	o, err := a.dynamic.Resource(v1alpha1.Backlogs).Create(context.Background(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "petiole.dev/v1alpha1", "kind": "Backlog", "metadata": map[string]any{"generateName": "q-"}, "spec": spec,
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o.GetName()
}

func answersPages(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	w.site("plant-a").register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	ask := func(after int64, limit int32) v1alpha1.BacklogStatus {
		name := question(t, a, v1alpha1.BacklogSpec{Site: "plant-a", After: after, Limit: limit})
		var b v1alpha1.Backlog
		eventually(t, "answer", func() bool {
			o, err := w.dynamic.Resource(v1alpha1.Backlogs).Get(w.ctx, name, metav1.GetOptions{})
			w.must(err)
			w.must(runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &b))
			return b.Status.Time != nil
		})
		w.must(w.dynamic.Resource(v1alpha1.Backlogs).Delete(w.ctx, name, metav1.DeleteOptions{}))
		return b.Status
	}
	all := ask(0, 0)
	if len(all.Items) < 5 || all.Next != 0 || all.Error != "" {
		t.Fatalf("everything: %+v", all)
	}
	var paged []v1alpha1.PendingObject
	for after := int64(0); ; {
		page := ask(after, 2)
		if len(page.Items) > 2 {
			t.Fatalf("%d items where 2 were asked for", len(page.Items))
		}
		paged = append(paged, page.Items...)
		if page.Next == 0 {
			break
		}
		after = page.Next
	}
	if !slices.Equal(paged, all.Items) {
		t.Errorf("by pages %+v, at once %+v", paged, all.Items)
	}
}

// deletesAbandoned: a plugin that was killed leaves nothing behind for long, whichever
// bridge leads by then.
func deletesAbandoned(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	name := question(t, a, v1alpha1.BacklogSpec{Site: "plant-a"})
	w.start("one")
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		_, err := w.dynamic.Resource(v1alpha1.Backlogs).Get(w.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		w.must(err)
		if time.Since(start) > time.Minute+patience {
			t.Fatal("an abandoned question is still there")
		}
	}
}

func resyncsByCommand(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	l := s.leaf()
	s.beat(0, "a1")
	w.storedAll("plant-a")
	w.awaitCondition("plant-a", v1alpha1.ConditionSynced, v1alpha1.ReasonUpToDate)
	operator := w.kubectl("petiole-operator")
	eventually(t, "rights of the operator", func() bool { code, _, _ := operator("status"); return code == 0 })
	before := len(l.of(w.configMapRef("settings")))
	told := l.verifies()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // the leaf compares when it is told to, maybe before the command is
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			if l.verifies() > told {
				l.compare()
			}
		}
	}()
	code, out, errOut := operator("resync", "plant-a", "--wait", "--timeout", "30s")
	close(stop)
	<-done
	if code != 0 || out != "site.petiole.dev/plant-a resynced\n" {
		t.Fatalf("code %d, %q, %q", code, out, errOut)
	}
	if n := len(l.of(w.configMapRef("settings"))); n != before+1 {
		t.Errorf("the site got an object %d times more, want once", n-before)
	}
	st := w.siteStatus("plant-a")
	if st.Resync == nil || st.Resync.Reason != antientropy.ResyncRequested || st.Resync.Requested == "" || st.LastCheck == nil || st.LastCheck.Outcome != "equal" {
		t.Errorf("status %+v %+v", st.Resync, st.LastCheck)
	}
	w.awaitEvent("plant-a", sitestatus.EventResync)
}
