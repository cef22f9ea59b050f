#!/bin/sh
# Installs Debian's Docker. Nothing of it is started: the machine has no service manager.
set -eu
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get update
# The command docker is a package of its own since Debian 13.
cli=$(apt-cache pkgnames docker-cli)
apt-get install --yes --no-install-recommends docker.io docker-compose ca-certificates iproute2 iptables procps $cli
