#!/bin/sh
# Starts a Docker with a data root and a socket of its own, for the scripts in this folder.
set -eu
. "$(dirname "$0")/env"
mkdir -p "$docker_dir"
setsid dockerd --data-root "$docker_dir/data" --exec-root /run/petiole-docker --pidfile "$docker_dir/pid" -H "$DOCKER_HOST" \
	> "$docker_dir/log" 2>&1 < /dev/null &
i=0
until docker info > "$docker_dir/info" 2>&1; do
	i=$((i + 1))
	test $i -lt 120 || { tail -20 "$docker_dir/log" "$docker_dir/info"; exit 1; }
	sleep 0.5
done
docker version
docker-compose version
