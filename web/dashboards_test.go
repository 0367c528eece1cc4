package web

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

var ownMetric = regexp.MustCompile(`\btinyrunner_[a-z_]+`)

// TestDashboards: the dashboard and the alerts can be read, and name only metrics that there are.
func TestDashboards(t *testing.T) {
	known := make(map[string]bool)
	for _, f := range families() {
		known["tinyrunner_"+f.name] = true
	}
	check := func(where, expr string) {
		names := ownMetric.FindAllString(expr, -1)
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s: there is no metric %s", where, name)
			}
		}
		if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
			t.Errorf("%s: unbalanced: %s", where, expr)
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	data, err := os.ReadFile("grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &dashboard); err != nil || len(dashboard.Panels) == 0 {
		t.Fatalf("dashboard of %d panels: %v", len(dashboard.Panels), err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			check(p.Title, target.Expr)
		}
	}
	if data, err = os.ReadFile("alerts.yml"); err != nil {
		t.Fatal(err)
	}
	rules := strings.Split(string(data), "- alert: ")[1:]
	if len(rules) == 0 {
		t.Error("no alerts")
	}
	for _, rule := range rules {
		name, _, _ := strings.Cut(rule, "\n")
		for _, field := range []string{"expr: ", "labels: {severity: ", "annotations:\n", "summary: ", "description: "} {
			if strings.Count(rule, " "+field) != 1 {
				t.Errorf("%s: not one %q", name, field)
			}
		}
		check(name, between(rule, "expr: ", "\n"))
	}
}
