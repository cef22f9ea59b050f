#!/bin/sh
# Creates the images that a machine without a registry cannot pull, under their names: Debian from
# the bare root of `fresh`, Prometheus from Debian's package, and the programs, which were built
# outside of Docker. Then it builds the images of compose.yaml.
set -eu
. "$(dirname "$0")/env"
root=$(mktemp -d "$docker_dir/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
tar -C "$root" -xf "$HOME/.cache/petiole/fresh/minbase-$SUITE-$(dpkg --print-architecture).tar"
cp /etc/apt/sources.list "$root/etc/apt/"
cp /etc/apt/apt.conf.d/99dates "$root/etc/apt/apt.conf.d/"
# Those that the Dockerfile installs in Debian: inside of Docker there is no mirror of packages.
packages=$(awk '/^FROM/ { debian = /DEBIAN/ } debian && /apt-get install/' "$repository/deploy/images/Dockerfile" |
	sed 's/.*--no-install-recommends//; s/&& .*//')
chroot "$root" apt-get update
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install --yes --no-install-recommends $packages
tar -C "$root" -c . | docker import - debian:bookworm-slim
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install --yes --no-install-recommends prometheus
tar -C "$root" -c . | docker import --change 'ENTRYPOINT ["/usr/bin/prometheus"]' - \
	"$(sed -n 's/^ *image: \(prom\/prometheus:.*\)/\1/p' "$repository/deploy/compose/compose.yaml")"
tar -C "$repository/.lab" -c --transform 's,^bin,out,' bin | docker import - petiole/programs
compose build --parallel
docker images
