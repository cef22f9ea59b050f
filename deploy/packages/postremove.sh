#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
# `apt purge` undoes the join, too.
if [ "$1" = purge ]; then
	rm -rf /etc/petiole /var/lib/petiole
fi
