#!/usr/bin/env bash
# Install what the lab (tests/lab) needs from the system: a container engine with its network, debootstrap,
# and what unit tests pack generations with.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

readonly packages=(podman runc netavark aardvark-dns iptables nftables debootstrap squashfs-tools)

if ! command -v dpkg-query >/dev/null; then
  for program in podman debootstrap; do
    command -v "$program" >/dev/null || die "the lab needs $program; please install it"
  done
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt_install "${missing[@]}"
fi
