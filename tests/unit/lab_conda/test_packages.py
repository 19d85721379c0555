"""Conda packages that we write."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lab.channel import write_repodata
from lab.packages import PLACEHOLDER, Entry, digest_of, index_of, read_index, read_tree, write_package


def members(package: Path, part: str) -> dict[str, tarfile.TarInfo | bytes]:
    """What a part ("pkg" or "info") of a package holds: the content of files, the entries of links."""
    with zipfile.ZipFile(package) as archive:
        (name,) = (name for name in archive.namelist() if name.startswith(f"{part}-"))
        data = zstandard.ZstdDecompressor().decompressobj().decompress(archive.read(name))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {one.name: file.read() if (one.isfile() and (file := tar.extractfile(one))) else one for one in tar}


def info(package: Path, name: str) -> Any:
    data = members(package, "info")[f"info/{name}"]
    assert isinstance(data, bytes)
    return json.loads(data)


def test_package_says_what_it_holds(tmp_path: Path) -> None:
    entries = [
        Entry("bin/tool", f"#!{PLACEHOLDER}/bin/python\n".encode(), 0o755),
        Entry("share/data", b"\0\1"),
        Entry("bin/alias", link="tool"),
    ]
    index = index_of("tool", "1.0", "0", ["python"])
    package = write_package(tmp_path, index, entries, about={"summary": "a tool"})
    assert package == tmp_path / "linux-64" / "tool-1.0-0.conda"
    assert read_index(package) == index
    paths = {path["_path"]: path for path in info(package, "paths.json")["paths"]}
    assert paths["bin/tool"]["prefix_placeholder"] == PLACEHOLDER
    assert paths["bin/tool"]["file_mode"] == "text"
    assert paths["bin/alias"]["path_type"] == "softlink"
    assert paths["share/data"]["sha256"] == hashlib.sha256(b"\0\1").hexdigest()
    assert "prefix_placeholder" not in paths["share/data"]
    assert members(package, "info")["info/files"] == b"bin/alias\nbin/tool\nshare/data\n"
    link = members(package, "pkg")["bin/alias"]
    assert isinstance(link, tarfile.TarInfo)
    assert link.linkname == "tool"


def test_equal_input_gives_equal_packages(tmp_path: Path) -> None:
    entries = [Entry("b", b"2"), Entry("a", b"1")]
    index = index_of("x", "1", "0", [], noarch="generic")
    first = write_package(tmp_path / "1", index, entries).read_bytes()
    assert write_package(tmp_path / "2", index, reversed(entries)).read_bytes() == first
    assert digest_of(entries) == digest_of(reversed(entries)) != digest_of(entries[:1])


def test_binary_with_a_prefix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lib/x\.so"):
        write_package(tmp_path, index_of("x", "1", "0", []), [Entry("lib/x.so", b"\0" + PLACEHOLDER.encode())])
    assert not list(tmp_path.rglob("*.conda"))


def test_tree_is_readable_by_all_whatever_the_umask_was(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "run").write_text("x")
    (tmp_path / "bin" / "run").chmod(0o700)
    (tmp_path / "text").write_text("y")
    (tmp_path / "text").chmod(0o600)
    os.symlink("bin", tmp_path / "link")
    found = {entry.path: (oct(entry.mode), entry.link) for entry in read_tree(tmp_path)}
    assert found == {"bin/run": ("0o755", None), "text": ("0o644", None), "link": ("0o777", "bin")}


def test_repodata_has_the_hash_of_each_package(tmp_path: Path) -> None:
    package = write_package(tmp_path, index_of("x", "1", "0", ["y >=2"], noarch="generic"), [Entry("a", b"1")])
    write_repodata(tmp_path)
    repodata = json.loads((tmp_path / "noarch" / "repodata.json").read_text())
    packed = (tmp_path / "noarch" / "repodata.json.zst").read_bytes()
    assert json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(packed)) == repodata
    record = repodata["packages.conda"][package.name]
    data = package.read_bytes()
    assert (record["md5"], record["sha256"]) == (hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest())
    assert (record["size"], record["depends"], record["subdir"]) == (len(data), ["y >=2"], "noarch")
    assert json.loads((tmp_path / "linux-64" / "repodata.json").read_text())["packages.conda"] == {}
