#!/bin/sh
# Install Debian packages that are missing; without the right to, name them and the command. Elsewhere: say what is needed.
set -eu
if ! command -v dpkg-query >/dev/null; then
    echo "not a Debian system: make sure that it has what these packages hold: $*" >&2
    exit 0
fi
missing=""
for package in "$@"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "these Debian packages are missing; run: sudo apt-get install$missing" >&2
    exit 1
fi
# a package's daemon is not started: what needs one starts its own
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get update -qq
# shellcheck disable=SC2086 # one word a package
DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends $missing >/dev/null
