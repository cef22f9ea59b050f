package prometheus

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const patience = time.Minute

// The variables that the task sets: the program, and the folder with bridge.prom and leaf.prom.
const (
	programVariable = "PETIOLE_PROMETHEUS"
	metricsVariable = "PETIOLE_METRICS"
)

// server is a Prometheus that scrapes a bridge and a leaf.
type server struct {
	t   *testing.T
	url string
	// labels are those of each metric in docs/operations.md.
	labels map[string][]string
}

func variable(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run go tool task metrics", name)
	}
	return value
}

func start(t *testing.T) *server {
	t.Helper()
	folder, dir := variable(t, metricsVariable), t.TempDir()
	programs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(filepath.Join(folder, filepath.Base(r.URL.Path)+".prom"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(text)
	}))
	t.Cleanup(programs.Close)
	rules, err := filepath.Abs("../kubernetes/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n", rules)
	for _, program := range []string{"bridge", "leaf"} {
		config += fmt.Sprintf("  - {job_name: %s, metrics_path: /%s, static_configs: [{targets: [%q]}]}\n", program, program, programs.Listener.Addr())
	}
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, labels: documented(t)}
	s.run(variable(t, programVariable), "--config.file="+path, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	return s
}

// address is in the line of the log that says where Prometheus listens.
var address = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

// run starts Prometheus until the test ends, and waits until it listens.
func (s *server) run(program string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = patience
	out, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		s.t.Fatal(err)
	}
	found, ended := make(chan string, 1), make(chan string, 1)
	go func() {
		var text strings.Builder
		for lines := bufio.NewScanner(io.TeeReader(out, &text)); lines.Scan(); {
			if m := address.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
		_ = cmd.Wait() // the log says why
		ended <- text.String()
	}()
	s.t.Cleanup(func() {
		cancel()
		if text := <-ended; s.t.Failed() {
			s.t.Log(text)
		}
	})
	select {
	case a := <-found:
		s.url = "http://" + a + "/api/v1/"
	case text := <-ended:
		ended <- text
		s.t.Fatal("Prometheus has ended")
	case <-time.After(patience):
		s.t.Fatal("Prometheus does not listen")
	}
	s.eventually("readiness of Prometheus", func() bool { _, err := s.query("vector(1)"); return err == nil })
}

// ask sends a request to the API of Prometheus.
func (s *server) ask(path string, parameters url.Values, into any) error {
	r, err := http.Get(s.url + path + "?" + parameters.Encode())
	if err != nil {
		return err
	}
	defer r.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, r.Status, err)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// query returns the number of series in the answer to a query.
func (s *server) query(expr string) (int, error) {
	var answer struct{ Result []json.RawMessage }
	err := s.ask("query", url.Values{"query": {expr}}, &answer)
	return len(answer.Result), err
}

func (s *server) eventually(what string, cond func() bool) {
	s.t.Helper()
	for began := time.Now(); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > patience {
			s.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// awaitScrapes waits for two samples of each series, without which there is no rate.
func (s *server) awaitScrapes() {
	s.t.Helper()
	s.eventually("two scrapes of bridge and leaf", func() bool {
		n, err := s.query("sum_over_time(up[5m]) >= 2")
		return err == nil && n == 2
	})
}

// The metrics of a table of docs/operations.md. The tests of bridge and leaf compare the tables with
// what the programs register.
var row = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (counter|gauge|histogram) \\| ([a-z0-9_`, ]*)\\|")

func documented(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{"up": nil, "process_resident_memory_bytes": nil}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		labels := strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		if m[2] != "histogram" {
			all[m[1]] = labels
			continue
		}
		all[m[1]+"_bucket"] = append(slices.Clone(labels), "le")
		all[m[1]+"_sum"], all[m[1]+"_count"] = labels, labels
	}
	if len(all) < 70 {
		t.Fatalf("%d metrics are documented", len(all))
	}
	return all
}

// node is a part of a query, as Prometheus parses it.
type node struct {
	Type           string
	Name           string
	Matchers       []struct{ Name string }
	Grouping       []string
	Matching       *struct{ Labels, Include []string }
	Expr, LHS, RHS *node
	Param          *node
	Args           []*node
}

// check returns what is wrong with the metrics and labels in a query, and the labels of the series
// that it reads.
func (s *server) check(n *node) (problems, labels []string) {
	if n == nil {
		return nil, nil
	}
	for _, part := range append([]*node{n.Expr, n.LHS, n.RHS, n.Param}, n.Args...) {
		p, l := s.check(part)
		problems, labels = append(problems, p...), append(labels, l...)
	}
	used := n.Grouping
	if n.Matching != nil {
		used = slices.Concat(used, n.Matching.Labels, n.Matching.Include)
	}
	if n.Type == "vectorSelector" || n.Type == "matrixSelector" {
		of, ok := s.labels[n.Name]
		if !ok {
			return append(problems, fmt.Sprintf("there is no metric %q", n.Name)), nil
		}
		labels = slices.Concat(of, []string{"__name__", "instance", "job"})
		for _, m := range n.Matchers {
			used = append(used, m.Name)
		}
	}
	for _, l := range used {
		if !slices.Contains(labels, l) {
			problems = append(problems, fmt.Sprintf("no series has the label %q; they have %q", l, labels))
		}
	}
	return problems, labels
}

// evaluate parses, checks and evaluates a query, and reports whether it has a result.
func (s *server) evaluate(where, expr string) bool {
	s.t.Helper()
	var parsed node
	if err := s.ask("parse_query", url.Values{"query": {expr}}, &parsed); err != nil {
		s.t.Errorf("%s: parse %s: %v", where, expr, err)
		return false
	}
	problems, _ := s.check(&parsed)
	for _, p := range problems {
		s.t.Errorf("%s: %s: %s", where, expr, p)
	}
	n, err := s.query(expr)
	if err != nil {
		s.t.Errorf("%s: evaluate %s: %v", where, expr, err)
	}
	return n > 0
}

type dashboard struct {
	Templating struct {
		List []struct{ Name string }
	}
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// variables are the values of Grafana's variables and of those of the dashboards.
var variables = strings.NewReplacer("$__rate_interval", "1m", "$site", "plant-a", "$leaf", ".+")

func TestDashboards(t *testing.T) {
	s := start(t)
	s.awaitScrapes()
	for _, name := range []string{"fleet", "site"} {
		data, err := os.ReadFile(filepath.Join("..", "grafana", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		queries, empty := 0, []string(nil)
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				queries++
				expr := variables.Replace(target.Expr)
				if strings.Contains(expr, "$") {
					t.Errorf("%s, %s: %s has a variable that the dashboard does not define", name, p.Title, target.Expr)
				} else if !s.evaluate(name+", "+p.Title, expr) {
					empty = append(empty, expr)
				}
			}
		}
		t.Logf("%s: %d queries, without a result %d: %s", name, queries, len(empty), strings.Join(empty, "; "))
		// Some have a result only after a failure, or with a kubelet.
		if queries < 30 || len(empty)*4 > queries {
			t.Errorf("%s: %d of %d queries have no result", name, len(empty), queries)
		}
	}
}

func TestAlerts(t *testing.T) {
	s := start(t)
	s.awaitScrapes()
	type rules struct {
		Groups []struct {
			Rules []struct{ Name, Query, Health, LastError, LastEvaluation string }
		}
	}
	var all rules
	s.eventually("evaluation of all rules", func() bool {
		all = rules{}
		if err := s.ask("rules", nil, &all); err != nil {
			return false
		}
		for _, g := range all.Groups {
			for _, r := range g.Rules {
				if r.Health == "unknown" {
					return false
				}
			}
		}
		return len(all.Groups) > 0
	})
	n := 0
	for _, g := range all.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health != "ok" {
				t.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
			}
			s.evaluate(r.Name, r.Query)
		}
	}
	if n < 12 {
		t.Errorf("%d rules", n)
	}
}

// TestQueriesThatAreWrong: what the other tests look for is found.
func TestQueriesThatAreWrong(t *testing.T) {
	s := start(t)
	for expr, want := range map[string]bool{
		"sum by (site) (petiole_bridge_site_connected)":                  true,
		"sum by (plant) (petiole_bridge_site_connected)":                 false,
		"petiole_bridge_site_linked":                                     false,
		`petiole_bridge_site_connected{plant="a"}`:                       false,
		"rate(petiole_bridge_queue_wait_seconds[1m])":                    false,
		"rate(petiole_bridge_queue_wait_seconds_bucket[1m]) and up":      true,
		"petiole_bridge_leader and on (site) petiole_bridge_outage == 0": false,
	} {
		var parsed node
		if err := s.ask("parse_query", url.Values{"query": {expr}}, &parsed); err != nil {
			t.Fatal(err)
		}
		if problems, _ := s.check(&parsed); (len(problems) == 0) != want {
			t.Errorf("%s: found %q; is right: %t", expr, problems, want)
		}
	}
}
