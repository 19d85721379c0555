# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a node's driver packages come from, and the one question to ask there. Nothing on the node is changed."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import tempfile
import typing as t

from .packages import RPM_FORMAT, Package, parse_apt, parse_rpm
from .plan import DEBIAN

#: Runs a command, and returns its exit code, output and errors.
Run = t.Callable[[list[str]], tuple[int, str, str]]

SOURCES = "/etc/apt/sources.list.d/envfleet-nvidia.sources"
YUM_REPOSITORY = "/etc/yum.repos.d/envfleet-nvidia.repo"
#: The key beside the packages in NVIDIA's repositories, since April 2022.
KEYS = {"apt": "3bf863cc.pub", "dnf": "D42D0685.pub"}
_MANAGED = "# Managed by envfleet.gpu_cluster (role nvidia_driver): changes made here are undone.\n"
_PATTERNS = ("nvidia-*", "libnvidia-*", "libcuda*", "firmware-nvidia-*", "linux-modules-nvidia-*", "datacenter-gpu-*")
_RPM_PATTERNS = ("nvidia-*", "libnvidia-*", "kmod-nvidia-*", "datacenter-gpu-*")


class RepositoryError(Exception):
    """The repositories cannot be told or asked. The message says which and what to do."""


class Source(t.NamedTuple):
    """One line of apt's sources."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def text(self) -> str:
        """As a stanza of deb822."""
        lines = [f"Types: deb\nURIs: {self.uri}\nSuites: {self.suite}\n"]
        lines += [f"Components: {' '.join(self.components)}\n"] * bool(self.components)
        lines += [f"Signed-By: {self.signed_by}\n"] * bool(self.signed_by)
        return "".join(lines)


def distribution(os_release: str, machine: str) -> dict[str, str]:
    """What /etc/os-release tells: id, version, codename and, as given, the architecture."""
    fields = {name: value.strip("\"'") for name, value in re.findall(r"^([A-Z_]+)=(.*)$", os_release, re.MULTILINE)}
    return {
        "id": fields.get("ID", ""),
        "version": fields.get("VERSION_ID", ""),
        "codename": fields.get("VERSION_CODENAME", ""),
        "arch": machine,
    }


def apt_sources(root: str = "/") -> list[Source]:
    """The node's sources of packages, without the one of this collection."""
    folder = os.path.join(root, "etc/apt")
    lists = [os.path.join(folder, "sources.list"), *sorted(glob.glob(os.path.join(folder, "sources.list.d/*.list")))]
    found = []
    for path in lists:
        found += parse_list(_read(path))
    for path in sorted(glob.glob(os.path.join(folder, "sources.list.d/*.sources"))):
        if os.path.basename(path) != os.path.basename(SOURCES):
            found += parse_sources(_read(path))
    return found


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()
    return ""


def parse_list(text: str) -> list[Source]:
    """Sources in the style of one line each, as sources.list(5) has them."""
    found = []
    for line in re.findall(r"^\s*deb\s+(.*)$", text, re.MULTILINE):
        options, rest = re.fullmatch(r"(?:\[(.*?)\]\s*)?(.*)", line.partition("#")[0].strip()).groups()  # type: ignore[union-attr]  # matches all
        uri, suite, *components = rest.split() if len(rest.split()) > 1 else ("", "")
        signed = re.search(r"signed-by=(\S+)", options or "")
        found += [Source(uri, suite, tuple(components), signed[1] if signed else "")] * bool(uri)
    return found


def parse_sources(text: str) -> list[Source]:
    """Sources in the style of deb822."""
    found = []
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            name.lower(): value for name, value in re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip() == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                found.append(Source(uri, suite, components, fields.get("signed-by", "").strip(" \t")))
    return found


def archive(sources: t.Iterable[Source], system: t.Mapping[str, str]) -> tuple[list[Source], list[Source]]:
    """The parts of the distribution's own archive that have the driver: all of them, and those that the node lacks.

    Raises RepositoryError where the node's sources do not tell where the archive is.
    """
    wanted: tuple[str, ...] = ("restricted", "multiverse")
    if system["id"] == "debian":
        wanted = ("contrib", "non-free", "non-free-firmware")[: 3 if int(system["version"] or 13) >= 12 else 2]
    suites = [f"{system['codename']}{suffix}" for suffix in ("", "-updates", "-security")]
    there: dict[tuple[str, str], set[str]] = {}
    signed: dict[tuple[str, str], str] = {}
    for one in sources:
        if one.suite in suites:
            there.setdefault((one.uri, one.suite), set()).update(one.components)
            signed.setdefault((one.uri, one.suite), one.signed_by)
    places = [place for place, components in there.items() if "main" in components]
    if not places:
        reason = f"no source of apt on the node is the archive of {system['id']} {system['codename']}"
        raise RepositoryError(f"{reason}: add it, or set the repository to nvidia")
    lacking = {place: tuple(one for one in wanted if one not in there[place]) for place in places}
    return (
        [Source(*place, wanted, signed[place]) for place in places],
        [Source(*place, lacking[place], signed[place]) for place in places if lacking[place]],
    )


def nvidia_url(url: str, system: t.Mapping[str, str]) -> str:
    """NVIDIA's repository for the system, whose place in *url* {distribution} and {architecture} stand for."""
    major = system["version"].partition(".")[0]
    names = {"debian": f"debian{major}", "ubuntu": f"ubuntu{system['version'].replace('.', '')}"}
    place = names.get(system["id"], f"rhel{major}")
    architecture = {"aarch64": "sbsa"}.get(system["arch"], system["arch"])
    return url.replace("{distribution}", place).replace("{architecture}", architecture).rstrip("/")


def nvidia_source(url: str, key: str) -> Source:
    """NVIDIA's repository for apt, which has no suites, signed with *key*, whose text becomes part of the source."""
    folded = "".join(f"\n {line.strip() or '.'}" for line in key.strip().splitlines())
    return Source(f"{url}/", "/", (), folded)


def sources_text(sources: t.Sequence[Source]) -> str:
    """The file with these sources; empty where there are none."""
    return _MANAGED + "\n".join(one.text() for one in sources) if sources else ""


def yum_text(url: str, key_url: str, pins: t.Iterable[str] = ()) -> str:
    """The file with NVIDIA's repository for dnf, of which dnf sees no other versions than those of *pins*."""
    lines = [f"baseurl={url}", "enabled=1", "gpgcheck=1", f"gpgkey={key_url}"]
    lines += [f"includepkgs={' '.join(f'*-{version}.*' for version in sorted(set(pins)))}"] * bool(pins)
    return f"{_MANAGED}[envfleet-nvidia]\nname=NVIDIA driver\n" + "".join(f"{line}\n" for line in lines)


def ask_apt(run: Run, sources: t.Sequence[Source], machine: str) -> list[Package]:
    """What these sources offer. Their indexes are fetched to a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="envfleet-apt-") as scratch:
        os.chmod(scratch, 0o755)  # apt fetches as a user of its own
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            os.makedirs(os.path.join(scratch, name))
        with open(os.path.join(scratch, "parts/asked.sources"), "w", encoding="utf-8") as stream:
            stream.write(sources_text(sources))
        settings = {
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": f"{scratch}/parts",
            "Dir::State::Lists": f"{scratch}/lists",
            "Dir::Cache": f"{scratch}/cache",
            "Acquire::Languages": "none",
            "APT::Update::Error-Mode": "any",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        code, output, errors = run(["apt-get", *options, "--quiet=2", "update"])
        if code:
            told = " | ".join((errors or output).strip().splitlines()[-3:])
            places = ", ".join(sorted({one.uri for one in sources}))
            raise RepositoryError(f"apt cannot read {places}: {told}")
        # A pattern that nothing matches is an error for apt-cache, and none for us.
        _code, output, _errors = run(["apt-cache", *options, "show", *_PATTERNS])
    return parse_apt(output, machine)


def ask_dnf(run: Run, url: str, machine: str) -> list[Package]:
    """What NVIDIA's repository for dnf offers, in all of its streams."""
    place = ["--repofrompath", f"envfleet-asked,{url}", "--repo", "envfleet-asked"]
    options = ["--setopt=envfleet-asked.module_hotfixes=1", "--queryformat", RPM_FORMAT]
    code, output, errors = run(["dnf", "--quiet", *place, "repoquery", *options, *_RPM_PATTERNS])
    if code:
        raise RepositoryError(f"dnf cannot read {url}: {' | '.join(errors.strip().splitlines()[-3:])}")
    return parse_rpm(output, machine)


def ask(
    run: Run,
    system: t.Mapping[str, str],
    sources: t.Sequence[Source],
    repository: str,
    url: str,
    fetch: t.Callable[[str], str],
    key_url: str = "",
) -> tuple[list[Package], str, t.Callable[[t.Iterable[str]], str]]:
    """What the wanted repository offers this system, and the file that the node needs for it.

    That is its path, and what makes its text from the versions that are to stay. No text: the node has the repository.
    """
    place = nvidia_url(url, system)
    if system["id"] in DEBIAN:
        if repository == "nvidia":
            consulted = missing = [nvidia_source(place, fetch(key_url or f"{place}/{KEYS['apt']}"))]
        else:
            consulted, missing = archive(sources, system)
        return ask_apt(run, consulted, system["arch"]), SOURCES, lambda _pins: sources_text(missing)
    if repository != "nvidia":
        raise RepositoryError(
            f"{system['id']} has no driver of NVIDIA in its own archive: set the repository to nvidia"
        )
    key = key_url or f"{place}/{KEYS['dnf']}"
    return ask_dnf(run, place, system["arch"]), YUM_REPOSITORY, lambda pins: yum_text(place, key, pins)
