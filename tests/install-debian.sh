#!/bin/sh
# Installs from Debian's packages what the named groups of vmheal's tests and demo need.
# Says what it installs, starts no service, and does nothing when all is there already.
#
#   tests/install-debian.sh dev            what the development environment needs
#   tests/install-debian.sh dev test       and the programs that tests start
set -eu

dev="gcc libc6-dev libvirt-dev pkg-config python3-dev python3-venv"
test="prometheus prometheus-alertmanager prometheus-blackbox-exporter
      libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils mmdebstrap
      e2fsprogs cpio busybox-static iproute2 openssh-client openssh-server sudo fence-agents
      chromium chromium-driver fonts-dejavu-core man-db systemd systemd-container"
bench="prometheus-libvirt-exporter prometheus-hacluster-exporter fio"

wanted=""
for group in "$@"; do
    case $group in
        dev) wanted="$wanted $dev" ;;
        test) wanted="$wanted $test" ;;
        bench) wanted="$wanted $bench" ;;
        *) echo "install-debian.sh: no group '$group'; there are: dev, test, bench" >&2; exit 2 ;;
    esac
done

missing=""
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "install-debian.sh: needs root or sudo to install:$missing" >&2; exit 1; }
    sudo=sudo
fi
echo "Installing Debian packages:$missing"

# Packages like prometheus start and enable their service when installed. Neither is wanted here:
# a policy that forbids it for the time of the installation, and a preset that leaves them disabled.
policy=/usr/sbin/policy-rc.d
preset=/etc/systemd/system-preset/00-vmheal-install.preset
ours=""
cleanup() {
    $sudo rm -f "$preset"
    [ -z "$ours" ] || $sudo rm -f "$policy"
}
trap cleanup EXIT INT TERM
if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
fi
$sudo mkdir -p "${preset%/*}"
printf 'disable *\n' | $sudo tee "$preset" >/dev/null
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 $missing >/dev/null
