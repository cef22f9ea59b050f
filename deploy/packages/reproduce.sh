#!/bin/sh
# Builds a package of the last commit twice, from clones in two folders, and fails if they are not the
# same byte for byte: reproduce.sh VERSION ARCHITECTURE
set -eu
name=petiole-leaf_$1_$2.deb
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for clone in first a-second-one; do
	git clone -q . "$folder/$clone"
	(cd "$folder/$clone" && go tool task package VERSION="$1" ARCHITECTURES="$2")
done
cd "$folder"
cmp "first/.lab/packages/$name" "a-second-one/.lab/packages/$name"
sha256sum "first/.lab/packages/$name"
