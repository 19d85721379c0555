# Shared by the shell scripts in this directory. Source it from the root of the checkout.
# shellcheck shell=bash

say() { printf '==> %s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Install Debian packages, quietly. Whoever is not root gets one error that names what to install.
apt_install() {
  command -v apt-get >/dev/null || die "please install these first, and run the command again: $*"
  [ "$(id -u)" = 0 ] || die "these packages are missing: $*. Install them (sudo apt-get install $*) and run the command again"
  say "Installing with apt: $*"
  local log install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@")
  log=$(mktemp)
  # The package lists may be missing or old: fetch them only when the first try fails.
  if ! "${install[@]}" >"$log" 2>&1 && ! { apt-get update && "${install[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt could not install: $*"
  fi
  rm -f "$log"
}
