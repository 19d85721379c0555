#!/usr/bin/env bash
# Make this machine a control node: .venv holds Ansible and the development tools, exactly as locked in
# requirements-dev.txt, and sees this checkout as the collection. Does nothing when all that is in place.
#
# PYTHON=/path/to/python3 names the Python to use; without it the newest suitable one is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

readonly stamp=.venv/.setup-stamp
readonly lock=requirements-dev.txt

lock_hash() { sha256sum "$lock" | cut -d ' ' -f 1; }

# A Python that can build a virtual environment. Debian ships `ensurepip` apart, in python3-venv.
suitable() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

# Print the newest suitable Python. pyenv's shims are no Pythons: what they start depends on the directory.
find_python() {
  local dirs dir name
  IFS=: read -ra dirs <<<"$PATH"
  dirs+=("${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin /usr/local/bin /usr/bin)
  for name in python3.14 python3.13 python3.12 python3.11 python3; do
    for dir in "${dirs[@]}"; do
      case $dir in */shims | "$PWD"/.venv/bin) continue ;; esac
      if [ -x "$dir/$name" ] && suitable "$dir/$name"; then
        printf '%s\n' "$dir/$name"
        return
      fi
    done
  done
  return 1
}

hash=$(lock_hash)
stamped_hash='' stamped_root='' stamped_python=''
if [ -x .venv/bin/python ] && [ -f "$stamp" ]; then
  { read -r stamped_hash; read -r stamped_root; read -r stamped_python; } <"$stamp" || true
fi
same_place=false
if [ "$stamped_root" = "$PWD" ] && [ "${PYTHON:-$stamped_python}" = "$stamped_python" ]; then
  same_place=true
fi
if $same_place && [ "$stamped_hash" = "$hash" ]; then
  exit 0
fi

missing=()
command -v ssh >/dev/null || missing+=(openssh-client)
if [ -n "${PYTHON:-}" ]; then
  suitable "$PYTHON" || die "PYTHON=$PYTHON is no Python 3.11 to 3.14 with venv and ensurepip"
elif ! $same_place && ! find_python >/dev/null; then
  missing+=(python3 python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
  apt_install "${missing[@]}"
fi

# An environment that another Python made, or that lay in another directory, is built anew.
if $same_place; then
  python=$stamped_python
else
  python=${PYTHON:-$(find_python)} || die "no Python 3.11 to 3.14 with venv and ensurepip found; name one: make setup PYTHON=..."
fi
rm -f "$stamp"
if ! $same_place; then
  say "Creating .venv with $python"
  "$python" -m venv --clear .venv
fi

say "Installing $(grep -c '^[a-z].*==' "$lock") locked Python packages into .venv (a minute or so)"
.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock" ||
  die "pip could not install $lock"

site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site/ansible_collections/envfleet"
ln -sfn "$PWD" "$site/ansible_collections/envfleet/gpu_cluster"

printf '%s\n%s\n%s\n' "$hash" "$PWD" "$python" >"$stamp"
say "Ready: $(.venv/bin/python -c '
import platform
from ansible.release import __version__
print(f"ansible-core {__version__} on Python {platform.python_version()} in .venv")')"
