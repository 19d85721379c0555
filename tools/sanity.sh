#!/usr/bin/env bash
# Run `ansible-test sanity` on a copy of what users get, with the Python of .venv. Arguments go to ansible-test.
# (ruff and mypy look at all the rest as well.)
#
# ansible-test insists on a directory .../ansible_collections/envfleet/gpu_cluster, and sets up its environments
# under ~/.ansible/test once, for all checkouts.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python

# ansible-test downloads get-pip.py unless it finds it here. Python brings a pip of its own, which can install the
# version that ansible-test asks for; so no other server than the package index is needed.
pip_version=$("$python" -c '
import sys, types
from ansible_test._internal.python_requirements import get_venv_packages
print(get_venv_packages(types.SimpleNamespace(version="%d.%d" % sys.version_info[:2]))["pip"])')
get_pip=$HOME/.ansible/test/cache/get_pip_${pip_version//./_}.py
if [ ! -e "$get_pip" ]; then
  mkdir -p "$(dirname "$get_pip")"
  cp tools/get_pip.py "$get_pip"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
copy=$work/ansible_collections/envfleet/gpu_cluster
"$python" tools/source_tree.py "$copy"
shopt -s extglob
rm -rf "$copy"/{molecule,tools} "$copy"/tests/!(sanity)
cd "$copy"
"$(dirname "$python")/ansible-test" sanity --color no --python "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" "$@"
