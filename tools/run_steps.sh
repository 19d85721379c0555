#!/usr/bin/env bash
# Run make targets one after another, up to the first that fails: tools/run_steps.sh lint unit ...
# Ends with a table of what ran, and the line "N passed, N failed". Its exit code is that of the failed step.
set -euo pipefail
cd "$(dirname "$0")/.."

results=()
passed=0 failed=0 code=0
for step in "$@"; do
  if [ "$failed" -gt 0 ]; then
    results+=("$step|not run|")
    continue
  fi
  printf '\n===== make %s\n' "$step"
  started=$SECONDS
  if make --no-print-directory "$step"; then
    outcome=passed passed=$((passed + 1))
  else
    code=$? outcome=FAILED failed=$((failed + 1))
  fi
  results+=("$step|$outcome|$((SECONDS - started)) s")
done

printf '\n'
for result in "${results[@]}"; do
  IFS='|' read -r step outcome duration <<<"$result"
  printf '%-12s %-8s %8s\n' "$step" "$outcome" "$duration"
done
printf '\n%d passed, %d failed\n' "$passed" "$failed"
exit "$code"
