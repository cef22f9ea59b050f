#!/bin/sh
# Installs, upgrades, removes and purges the package of this machine's architecture in a root of its
# own (dpkg --root), and fails if it leaves what it should not: test.sh OLD.deb NEW.deb
set -eu
old=$1 new=$2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/triggers" "$root/bin" "$root/tmp"
: > "$root/var/lib/dpkg/status"
# The scripts of the package need a shell and rm; the programs of this machine bring their libraries.
for program in sh rm; do
	path=$(readlink -f "$(command -v "$program")")
	cp "$path" "$root/bin/$program"
	ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
done
fail() {
	echo "deploy/packages/test.sh: $*" >&2
	exit 1
}
version() { dpkg --root="$root" -s petiole-leaf | sed -n 's/^Version: //p'; }
dpkg --root="$root" --install "$old" > "$root/log" || fail "install: $(cat "$root/log")"
first=$(version)
chroot "$root" /usr/bin/leaf version > /dev/null || fail "leaf does not run in a root without libraries"
chroot "$root" /usr/bin/petiole-kubelet --version > /dev/null || fail "petiole-kubelet does not run in a root without libraries"
test -f "$root/usr/lib/systemd/system/petiole-leaf.service" || fail "no unit"
mkdir -p "$root/etc/petiole" "$root/var/lib/petiole"
echo mine > "$root/etc/petiole/leaf.yaml"
dpkg --root="$root" --install "$new" > "$root/log" || fail "upgrade: $(cat "$root/log")"
test "$(version)" != "$first" || fail "not upgraded: $first"
test "$(cat "$root/etc/petiole/leaf.yaml")" = mine || fail "the upgrade changes the configuration"
dpkg --root="$root" --remove petiole-leaf > "$root/log" || fail "remove: $(cat "$root/log")"
for program in leaf petiole-kubelet; do
	test ! -e "$root/usr/bin/$program" || fail "remove leaves $program"
done
test -e "$root/etc/petiole/leaf.yaml" || fail "remove deletes the configuration"
dpkg --root="$root" --purge petiole-leaf > "$root/log" || fail "purge: $(cat "$root/log")"
test ! -e "$root/etc/petiole" || fail "purge leaves the configuration"
echo "installed $first, upgraded, removed and purged"
