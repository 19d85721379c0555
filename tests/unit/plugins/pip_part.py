"""A Python in a conda package, and tiny wheels for it: what the pip part of a lock needs."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Package, Wheel

from lab.packages import Entry

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel

SHORT = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = f"lib/python{SHORT}/site-packages"


def add_python(channel: Channel, *more: Entry) -> Package:
    """The Python of the tests, which takes the prefix that it is linked into for its own, as in a virtual environment.

    It has the standard library of the original, and a site-packages directory of its own.
    """
    original = Path(sys.base_prefix) / "bin" / f"python{SHORT}"
    entries = [
        Entry("bin/python", link=str(original)),
        Entry("pyvenv.cfg", f"home = {original.parent}\ninclude-system-site-packages = false\n".encode()),
        Entry(f"{SITE}/README.txt", b"for packages\n"),
        *more,
    ]
    return channel.add("python", f"{SHORT}.0", entries)


def digest(data: bytes) -> str:
    """A sum as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def write_wheel(
    directory: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    *,
    tag: str = "py3-none-any",
    sums: Mapping[str, str] | None = None,
    metadata: str = "",
) -> Path:
    """A wheel with *files* beside a module that tells its version and a script that calls it.

    :param sums: what its RECORD is to say of some of them instead of the truth.
    :param metadata: further lines for its METADATA.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    module = name.replace("-", "_").lower()
    info = f"{stem}.dist-info"
    content = {
        f"{module}.py": f'version = "{version}"\n\n\ndef main():\n    print("{name}", version)\n'.encode(),
        **(files or {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n".encode(),
    }
    rows = [f"{path},{(sums or {}).get(path, digest(data))},{len(data)}" for path, data in content.items()]
    content[f"{info}/RECORD"] = "".join(f"{row}\n" for row in [*rows, f"{info}/RECORD,,"]).encode()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in content.items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), data)
    return path


def listed(path: Path, url: str) -> Wheel:
    """The wheel at *path* as a lock lists it, at the place *url* of a server."""
    return Wheel.from_url(f"{url}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest())
