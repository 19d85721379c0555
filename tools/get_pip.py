"""Stands in for get-pip.py: install the packages named on the command line, with the pip that Python brings."""

from __future__ import annotations

import subprocess
import sys

wanted = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
for module, *arguments in (["ensurepip", "--default-pip"], ["pip", "install", "--disable-pip-version-check", *wanted]):
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL)
