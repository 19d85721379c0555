#!/usr/bin/env bash
# Install what the lab (tests/lab) needs from the system: a container engine with its network, debootstrap,
# what unit tests pack generations with, and a browser for the page of the drift report.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

packages=(podman runc netavark aardvark-dns iptables nftables debootstrap squashfs-tools)
# Elsewhere it is no package of apt's own, and the test of the page is skipped.
if grep -qx ID=debian /etc/os-release; then packages+=(chromium); fi

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
