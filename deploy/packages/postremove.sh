#!/bin/sh
set -e
# `apt purge` undoes the join, too.
if [ "$1" = purge ]; then
	rm -rf /etc/petiole /var/lib/petiole
fi
