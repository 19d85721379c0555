#!/usr/bin/env bash
# Build the collection's archive into .cache/build, from a copy of the source, and print its path.
# `ansible-galaxy collection build` packs whatever lies in a directory, so it must not see the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python tools/source_tree.py "$work"
mkdir -p .cache/build
.venv/bin/ansible-galaxy collection build --force --output-path .cache/build "$work" | sed 's/.*\(\.cache\/build\)/Built \1/'
