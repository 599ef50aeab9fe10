#!/bin/sh
# Run targets of the Makefile in a fresh clone in a Debian chroot, with the Python of that release: trixie has 3.13.
#
#   tests/environments/python_chroot.sh [TARGET ...]     (sweep test)
#
# Needs root, and debootstrap if the chroot does not exist yet. Settings, from the environment:
#   SUITE   Debian release (trixie)
#   CHROOT  folder of the chroot, kept between runs (/var/tmp/sparsity-sweeps-$SUITE)
#   MIRROR  Debian mirror (debootstrap's default)
# The clone is of the last commit. It stays in CHROOT/root/clone until the next run.
set -eu

suite=${SUITE:-trixie}
CHROOT=${CHROOT:-/var/tmp/sparsity-sweeps-$suite}
source=$(cd "$(dirname "$0")/../.." && pwd)
[ "$#" -gt 0 ] || set -- sweep test

fail() {
    echo "python_chroot.sh: $*" >&2
    exit 2
}

[ "$(id -u)" -eq 0 ] || fail "must run as root (it makes a chroot), runs as uid $(id -u)"
if [ ! -e "$CHROOT/.complete" ]; then
    command -v debootstrap >/dev/null || fail "debootstrap must be installed (it makes the chroot): apt-get install debootstrap"
    [ ! -e "$CHROOT" ] || fail "CHROOT must be a chroot that this script has made, $CHROOT is not, or is incomplete: delete it"
    debootstrap --variant=minbase \
        --include=python3,python3-venv,python3-dev,make,gcc,libc6-dev,git,ca-certificates,procps \
        "$suite" "$CHROOT" ${MIRROR:+"$MIRROR"}
    touch "$CHROOT/.complete"
fi
rm -rf --one-file-system "$CHROOT/root/clone"
git clone --quiet --no-hardlinks "$source" "$CHROOT/root/clone"

# The settings of package registries, proxies and certificates are those of this machine. They are passed on as variables
# and as files that a mount namespace shows in the chroot, so that nothing of them stays in it.
settings=$(env | grep -E '^(PIP_|UV_|SSL_CERT_|REQUESTS_CA_BUNDLE=|[a-zA-Z]+_(proxy|PROXY)=)' || true)
export CHROOT settings
# shellcheck disable=SC2016  # the inner shell expands them
exec unshare --mount --pid --fork --kill-child sh -eu -c '
    show() {  # a file or folder of this machine in the chroot
        [ -e "$1" ] || return 0
        inside=$CHROOT${2:-$1}
        mkdir -p "${inside%/*}"
        if [ -d "$1" ]; then mkdir -p "$inside"; else [ -e "$inside" ] || : >"$inside"; fi
        mount --rbind "$1" "$inside"
    }
    mount -t proc proc "$CHROOT/proc"
    for path in /dev /sys /etc/resolv.conf /etc/hosts /etc/ssl/certs /etc/pip.conf /etc/uv; do show "$path"; done
    for path in .config/pip .pip .config/uv; do show "$HOME/$path" "/root/$path"; done
    IFS="
"
    exec chroot "$CHROOT" env -i $settings HOME=/root LANG=C.UTF-8 PATH=/usr/bin:/bin:/usr/sbin:/sbin \
        make --directory /root/clone "$@"
' sh "$@"
