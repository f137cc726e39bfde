#!/bin/sh
# Installs Debian packages without starting their services: tests run routers and runtimes of their own.
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    # https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt: 101 forbids.
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
