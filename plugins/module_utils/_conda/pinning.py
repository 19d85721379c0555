# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What keeps a job in the generation it started with, across any number of switches of the name."""

from __future__ import annotations

import glob
import inspect
import os

from . import _envfleet_pin
from .files import write_file

# Runs in every shell that activates the environment; conda has set CONDA_PREFIX and PATH to the name before.
_ACTIVATION = """\
# Written by envfleet.gpu_cluster: a shell stays in the generation that it activated.
if [ -n "${{CONDA_PREFIX:-}}" ] && [ "$CONDA_PREFIX" != '{prefix}' ]; then
    PATH=$(printf '%s' ":$PATH:" | sed -e "s|:$CONDA_PREFIX/|:{prefix}/|g" -e 's|^:||' -e 's|:$||')
    CONDA_PREFIX='{prefix}'
    export PATH CONDA_PREFIX
fi
"""


def pin(prefix: str) -> None:
    """Have every Python and every shell that starts in *prefix* through its name stay in *prefix*."""
    source = inspect.getsource(_envfleet_pin)
    for packages in glob.glob(os.path.join(glob.escape(prefix), "lib/python3.*/site-packages")):
        if not os.path.islink(os.path.dirname(packages)):
            write_file(os.path.join(packages, "_envfleet_pin.py"), source)
            # Lines of .pth files that begin with import are run; the last file by name sees all of sys.path.
            write_file(os.path.join(packages, "zzz-envfleet-pin.pth"), "import _envfleet_pin\n")
    scripts = os.path.join(prefix, "etc/conda/activate.d")
    os.makedirs(scripts, mode=0o755, exist_ok=True)
    write_file(os.path.join(scripts, "envfleet-pin.sh"), _ACTIVATION.format(prefix=prefix))
