#!/usr/bin/env bash
# Run mypy over all our Python. Plugins import each other as ansible_collections.envfleet.gpu_cluster.plugins...,
# so mypy must meet them under that name and no other: through a link, like Ansible.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=.cache/typing/ansible_collections/envfleet
mkdir -p "$tree"
ln -sfn "$PWD" "$tree/gpu_cluster"
MYPYPATH=.cache/typing:tests:tools:benchmarks .venv/bin/mypy "$tree/gpu_cluster/plugins" tests tools benchmarks "$@"
