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

_HEADER = "# Written by envfleet.gpu_cluster: a shell stays in the generation that it activated.\n"
# Run in every shell that activates the environment; conda has set CONDA_PREFIX and PATH to the name before.
_ACTIVATION = {
    "sh": """\
if [ -n "${{CONDA_PREFIX:-}}" ] && [ "$CONDA_PREFIX" != '{prefix}' ]; then
    PATH=$(printf '%s' ":$PATH:" | sed -e "s|:$CONDA_PREFIX/|:{prefix}/|g" -e 's|^:||' -e 's|:$||')
    CONDA_PREFIX='{prefix}'
    export PATH CONDA_PREFIX
fi
""",
    "fish": """\
if set -q CONDA_PREFIX; and test "$CONDA_PREFIX" != '{prefix}'
    set -gx PATH (string replace -r -- '^'(string escape --style=regex -- "$CONDA_PREFIX/") '{prefix}/' $PATH)
    set -gx CONDA_PREFIX '{prefix}'
end
""",
    "csh": """\
if ($?CONDA_PREFIX) then
    if ("$CONDA_PREFIX" != '{prefix}') then
        setenv PATH "`printenv PATH | sed -e 's|^|:|' -e 's|:${{CONDA_PREFIX}}/|:{prefix}/|g' -e 's|^:||'`"
        setenv CONDA_PREFIX '{prefix}'
    endif
endif
""",
}


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
    for shell, script in _ACTIVATION.items():
        write_file(os.path.join(scripts, f"envfleet-pin.{shell}"), _HEADER + script.format(prefix=prefix))
