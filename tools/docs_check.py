"""Check that every plugin and role of the collection has documentation that ansible-doc can show.

antsibull-docs looks at what is documented; this looks for what is not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = "envfleet.gpu_cluster"
# Action plugins are documented by the module of the same name.
PLUGIN_TYPES = ("callback", "connection", "filter", "inventory", "lookup", "test")


def named_by_files(kind: str) -> set[str]:
    """The names that the files of one kind promise. One file may hold several filters or tests, so those have none."""
    if kind == "role":
        return {path.parent.parent.name for path in ROOT.glob("roles/*/meta/main.yml")}
    if kind in ("filter", "test"):
        return set()
    folder = ROOT / "plugins" / ("modules" if kind == "module" else kind)
    return {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}


def ansible_doc(kind: str, *arguments: str) -> dict[str, object]:
    """What ansible-doc says as JSON. Exits when it fails: what is wrong then stands on stderr."""
    command = ["ansible-doc", "--type", kind, "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    documents: dict[str, object] = json.loads(done.stdout)
    return documents


def main() -> int:
    """Print the number of documents of each kind, and what has none. Returns the exit code."""
    missing: list[str] = []
    for kind in ("module", "role", *PLUGIN_TYPES):
        names = {f"{COLLECTION}.{name}" for name in named_by_files(kind)} | set(ansible_doc(kind, "--list", COLLECTION))
        documents = ansible_doc(kind, *sorted(names)) if names else {}
        missing += [f"{kind} {name}" for name in sorted(names) if not documents.get(name)]
        if names:
            print(f"{kind}: {len(documents)} documented")
    for name in missing:
        print(f"error: {name} has no documentation", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
