package rig

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// labLimit bounds one command of the lab.
const labLimit = 2 * time.Minute

// Cut takes the site's link down.
func (r *Rig) Cut(ctx context.Context, s *Site) error { return r.lab(ctx, "cut", s.Name) }

// CutSilently lets packets vanish while both ends of the link look healthy.
func (r *Rig) CutSilently(ctx context.Context, s *Site) error {
	return r.lab(ctx, "cut", "--silent", s.Name)
}

// Heal takes the site's link up.
func (r *Rig) Heal(ctx context.Context, s *Site) error { return r.lab(ctx, "heal", s.Name) }

// Reboot restarts the site as a power cycle does; the link stays as it is.
func (r *Rig) Reboot(ctx context.Context, s *Site) error { return r.lab(ctx, "reboot", s.Name) }

// RebootWithin does the same, and bounds the memory of the site's gateway and pods from then on.
func (r *Rig) RebootWithin(ctx context.Context, s *Site, memory int64) error {
	return r.lab(ctx, "reboot", "--memory", strconv.FormatInt(memory, 10), s.Name)
}

// Restart starts one of the lab's daemons again.
func (r *Rig) Restart(ctx context.Context, daemon string) error { return r.lab(ctx, "restart", daemon) }

func (r *Rig) lab(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, labLimit)
	defer cancel()
	out, err := r.Command(ctx, r.Bin("lab"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("lab %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
