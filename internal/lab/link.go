package lab

// Cut takes a site's link down; with silent, packets vanish and both ends look healthy.
func (l *Lab) Cut(name string, silent bool) error {
	s, err := l.site(name)
	if err != nil {
		return err
	}
	if silent {
		err = l.net.CutSilently(s.Site)
	} else {
		err = l.net.Cut(s.Site)
	}
	if err != nil {
		return err
	}
	l.out.say("the link of %s is %s", name, l.net.State(s.Site))
	return nil
}

// Heal ends a Cut.
func (l *Lab) Heal(name string) error {
	s, err := l.site(name)
	if err != nil {
		return err
	}
	if err := l.net.Heal(s.Site); err != nil {
		return err
	}
	l.out.say("the link of %s is %s", name, l.net.State(s.Site))
	return nil
}

// Namespace returns the file of a site's network namespace, for nsenter --net.
func (l *Lab) Namespace(name string) (string, error) {
	s, err := l.site(name)
	if err != nil {
		return "", err
	}
	return s.Namespace(), nil
}
