#!/usr/bin/env bash
# Packages kubectl-petiole for krew: an archive for each platform, and petiole.yaml, which names
# them. package.sh VERSION FOLDER OS/ARCHITECTURE…: FOLDER/OS-ARCHITECTURE has the program.
set -euo pipefail
version=$1 folder=$2
shift 2
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "version $version: must be like 0.1.0" >&2; exit 2; }
here=$(dirname "${BASH_SOURCE[0]}")
manifest=$folder/petiole.yaml
sed "s/{{VERSION}}/v$version/" "$here/petiole.yaml" >"$manifest.new"
for platform in "$@"; do
  os=${platform%/*} arch=${platform#*/}
  name=kubectl-petiole
  [ "$os" = windows ] && name+=.exe
  archive=kubectl-petiole_v${version}_${os}_$arch.tar.gz
  root=$(mktemp -d)
  install -m 755 "$folder/$os-$arch/$name" "$root/$name"
  install -m 644 "$here/../../LICENSE" "$root/LICENSE"
  # The same program gives the same archive.
  tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c LICENSE "$name" | gzip -n >"$folder/$archive"
  rm -r "$root"
  cat >>"$manifest.new" <<END
    - selector:
        matchLabels: {os: $os, arch: $arch}
      uri: https://github.com/petiole-io/petiole/releases/download/v$version/$archive
      sha256: $(sha256sum "$folder/$archive" | cut -d ' ' -f 1)
      bin: $name
END
done
mv "$manifest.new" "$manifest"
echo "$manifest"
