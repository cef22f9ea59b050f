package plugin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// watchInterval is the time between two looks at the sites.
const watchInterval = time.Second

// barWidth is the number of characters of a progress bar.
const barWidth = 10

// progress knows how much sites had to catch up with. The zero value is ready to use.
type progress struct{ most map[string]int64 }

// bar shows how much of that a site has stored and applied, and is empty if nothing is left.
func (p *progress) bar(site *v1alpha1.Site) string {
	left := site.Status.Pending + site.Status.Unapplied
	if left == 0 {
		delete(p.most, site.Name)
		return ""
	}
	if p.most == nil {
		p.most = map[string]int64{}
	}
	p.most[site.Name] = max(p.most[site.Name], left)
	most := p.most[site.Name]
	done := int((most - left) * barWidth / most)
	return fmt.Sprintf("[%s%s] %d of %d", strings.Repeat("#", done), strings.Repeat("-", barWidth-done), most-left, most)
}

// watchSites shows the state of sites again when it has changed, until ctx ends: on a terminal in place of
// the former one and with the ages, elsewhere after it.
func watchSites(ctx context.Context, s *session, c dynamic.Interface, o *output, name string) error {
	if f := o.format(); f != "" && f != "wide" {
		return fmt.Errorf("--watch shows a table: --output %s cannot be watched", f)
	}
	screen, known := terminalOf(s.Out), progress{}
	version := ""
	for {
		all, err := namedSites(ctx, s, c, name)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		now := versions(all)
		var frame bytes.Buffer
		if screen != nil || now != version {
			if err := writeFrame(ctx, s, c, o, all, &known, &frame); err != nil {
				return err
			}
		}
		if screen != nil {
			err = screen.show(frame.String())
		} else {
			_, err = io.Copy(s.Out, &frame)
		}
		if err != nil {
			return err
		}
		version = now
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
		}
	}
}

// writeFrame writes a table of sites, and who leads.
func writeFrame(ctx context.Context, s *session, c dynamic.Interface, o *output, all *v1alpha1.SiteList, known *progress, to io.Writer) error {
	leader := s.leader(ctx, c)
	if ctx.Err() != nil {
		return nil
	}
	if len(all.Items) == 0 {
		_, err := fmt.Fprintln(to, "No sites found.")
		return err
	}
	if err := siteTable(s, o, all, known, to); err != nil {
		return err
	}
	_, err := fmt.Fprintf(to, "\n%s\n", sentence(leader))
	return err
}

// versions changes when a site does.
func versions(all *v1alpha1.SiteList) string {
	var b strings.Builder
	for _, site := range all.Items {
		fmt.Fprintln(&b, site.UID, site.ResourceVersion)
	}
	return b.String()
}

// namedSites returns all sites, or the one of a name.
func namedSites(ctx context.Context, s *session, c dynamic.Interface, name string) (*v1alpha1.SiteList, error) {
	if name == "" {
		return s.sites(ctx, c)
	}
	site, err := s.site(ctx, c, name)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.SiteList{Items: []v1alpha1.Site{*site}}, nil
}
