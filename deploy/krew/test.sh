#!/usr/bin/env bash
# Installs the package of this machine's platform with krew itself, without a network, into a
# folder of its own, and runs the plugin. test.sh KREW VERSION FOLDER
set -euo pipefail
krew=$1 version=$2 folder=$3
archive=$folder/kubectl-petiole_v${version}_$(go env GOOS)_$(go env GOARCH).tar.gz
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
KREW_ROOT=$root/right "$krew" install --manifest "$folder/petiole.yaml" --archive "$archive"
"$root/right/bin/kubectl-petiole" --help | grep -q 'kubectl petiole'

sed 's/sha256: .*/sha256: '"$(echo other | sha256sum | cut -d ' ' -f 1)/" "$folder/petiole.yaml" >"$root/wrong.yaml"
if KREW_ROOT=$root/wrong "$krew" install --manifest "$root/wrong.yaml" --archive "$archive"; then
  echo "krew installs an archive that is not the manifest's" >&2
  exit 1
fi
echo "krew installs the plugin, and refuses another archive"
