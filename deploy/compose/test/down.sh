#!/bin/sh
# Takes the lab in Docker Compose down, checks that nothing of it is left, and stops Docker.
set -eu
. "$(dirname "$0")/env"
compose down -v
left=$(docker ps -aq; docker volume ls -q; docker network ls -q --filter name=petiole)
if [ -n "$left" ]; then
	echo "left behind: $left"
	exit 1
fi
pid=$(cat "$docker_dir/pid")
kill "$pid"
i=0
while kill -0 "$pid" 2> /dev/null; do
	i=$((i + 1))
	test $i -lt 60 || { echo "Docker does not stop"; exit 1; }
	sleep 0.5
done
# What Docker itself leaves: its bridge and its cgroups.
ip link delete docker0
find /sys/fs/cgroup -depth -type d -path '*/docker*' -exec rmdir {} +
rm -rf "$docker_dir"
