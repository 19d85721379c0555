"""Copy the collection's source out of the checkout: python tools/source_tree.py DESTINATION.

What is copied is what git tracks or would track, as it lies in the working tree; on a clean checkout that is HEAD.
Caches, the virtual environment and generated files stay behind, since git ignores them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def source_files(root: Path) -> list[Path]:
    """The paths of all source files, relative to root. Raises CalledProcessError where git can't list them."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=root,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    paths = [Path(os.fsdecode(name)) for name in listing.split(b"\0") if name]
    # A file that is deleted, but not yet in the index, is still listed.
    return [path for path in paths if (root / path).is_symlink() or (root / path).exists()]


def copy_source(root: Path, destination: Path) -> None:
    """Copy every source file below root to the same place below destination."""
    for path in source_files(root):
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target, follow_symlinks=False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: source_tree.py DESTINATION")
    copy_source(ROOT, Path(sys.argv[1]))
