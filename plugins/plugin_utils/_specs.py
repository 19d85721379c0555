# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Specs: what a person wants of an environment, as an environment.yml says it (CEP 24).

Nothing is passed over: what cannot become part of a lock is an error that names the file, the key and the way out.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shlex
import typing as t
import urllib.parse

import yaml

from ..module_utils._conda.errors import CondaError, shown
from ..module_utils._conda.locks import normalized

PLATFORMS = (
    *("linux-64", "linux-aarch64", "linux-ppc64le", "linux-s390x", "linux-riscv64", "linux-armv7l", "linux-armv6l"),
    *("linux-32", "osx-64", "osx-arm64", "win-64", "win-32", "win-arm64"),
)
# What conda-build calls platforms in selectors, beside unix, linux, osx and win.
_SELECTORS = {
    "x86": r".*-(32|64)",
    "x86_64": r".*-64",
    "linux32": "linux-32",
    "linux64": "linux-64",
    "osx64": "osx-64",
    "win32": "win-32",
    "win64": "win-64",
    "arm64": ".*-arm64",
    "aarch64": "linux-aarch64",
    "ppc64le": "linux-ppc64le",
    "s390x": "linux-s390x",
    "riscv64": "linux-riscv64",
    "armv7l": "linux-armv7l",
    "armv6l": "linux-armv6l",
}
_SYSTEMS = {"unix": "(linux|osx)-.*", "linux": "linux-.*", "osx": "osx-.*", "win": "win-.*"}
_COMMENT_SELECTOR = re.compile(r"(?P<line>.*\S)\s*(?P<comment>#.*?)\[(?P<expression>[^\[\]]+)\][^()]*")
_DICT_SELECTOR = re.compile(r"sel\((.*)\)")

_KEYS = ("name", "channels", "dependencies", "variables", "prefix", "platforms", "category", "pip-repositories")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ATOM = r"\(*(?:[<>]=?|[!~=]=|=)?[\w.*+!-]+\)*"
_DEPENDENCY = re.compile(
    r"(?:(?P<channel>[^\s\[\]]+)::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*"
    rf"(?P<version>{_ATOM}(?:[,|]{_ATOM})*)?(?:(?:\s+|(?<=[\w.*)])=)(?P<build>[\w.*+^$|()?-]+))?\s*"
    r"(?P<brackets>(?:\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\])*)",
    re.ASCII,
)
_PACKAGE_URL = re.compile(r"\w+://\S+\.(conda|tar\.bz2)(#\S*)?")
_VCS = re.compile(r"(?:[\w.-]+(?:\[[^\]]*\])?\s*@\s*)?(?:git|hg|svn|bzr)\+", re.IGNORECASE)
# Lists of texts, flags, and what a lock fulfils by itself, since it names wheels by hash and nothing else.
_PIP_LISTS = {"--extra-index-url": "extra_index_urls", "--find-links": "find_links", "-f": "find_links"}
_PIP_FLAGS = {"--no-index": "no_index", "--pre": "pre"}
_PIP_FULFILLED = {"--prefer-binary": 0, "--require-hashes": 0, "--only-binary": 1, "--use-feature": 1}
_EXACT_WHEEL = "build a wheel of it, put it where --find-links or --index-url finds it, and require NAME==VERSION"


@dataclasses.dataclass(frozen=True)
class Dependency:
    """One conda dependency."""

    name: str
    constraint: str = ""  #: version, build and brackets as conda's match specs have them, or the URL of a package
    channel: str = ""  #: the only channel it may come from, as the spec names it
    subdir: str = ""


@dataclasses.dataclass(frozen=True)
class PipPart:
    """What pip is to install after the conda packages."""

    requirements: tuple[str, ...] = ()  #: as PEP 508 has them
    constraints: tuple[str, ...] = ()
    hashes: tuple[tuple[str, str], ...] = ()  #: normalized name and sha256 of the only archives that will do
    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    pre: bool = False


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a spec wants on one platform."""

    channels: tuple[str, ...]  #: first choice first, without the words nodefaults and defaults
    dependencies: tuple[Dependency, ...]
    pip: PipPart
    variables: tuple[tuple[str, str], ...]  #: that activation sets, sorted by name
    nodefaults: bool  #: whether the site's own channels are not to be added
    defaults: bool  #: whether it asks for Anaconda's channels


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a person wants."""

    source: str  #: the file, for messages
    directory: str  #: where relative paths in it begin, empty where they mean nothing
    content: t.Any  #: its text, or what a YAML parser has made of it

    def for_platform(self, platform: str) -> Wanted:
        """What it wants on *platform*, such as linux-64.

        :raises CondaError: an entry is not as it must be.
        """
        return _Reader(self.source, self.directory, platform).wanted(self._document(platform))

    @property
    def name(self) -> str:
        """The name it prefers for the environment, or an empty string."""
        return str(self._document("linux-64").get("name") or "")

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms it names."""
        reader = _Reader(self.source, self.directory, "linux-64")
        platforms = reader.texts(self._document("linux-64"), "platforms")
        for platform in platforms:
            if platform not in PLATFORMS:
                raise CondaError(f"{self.source}: platforms: {shown(platform)} is none of {', '.join(PLATFORMS)}")
        return platforms

    def _document(self, platform: str) -> dict[str, t.Any]:
        document = self.content
        if isinstance(document, str):
            document = _load("\n".join(_selected(document, platform, self.source)), self.source)
        if not isinstance(document, dict):
            raise CondaError(f"{self.source} is no environment.yml: write a list of packages under `dependencies:`")
        return document


def read_spec(path: str) -> Spec:
    """The spec in the file at *path*.

    :raises CondaError: it is missing, is no environment.yml, or wants what no lock can hold.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = stream.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"it is no text in UTF-8: {error}"
        raise CondaError(f"the spec {path} cannot be read: {reason}") from error
    # Without selectors it is parsed once, whatever the number of platforms.
    content = text if any(map(_selector_of, text.splitlines())) else _load(text, path)
    return _checked(Spec(path, os.path.dirname(os.path.abspath(path)), content))


def parse_spec(document: t.Any, source: str, directory: str = "") -> Spec:
    """The spec that a YAML parser has read as *document*.

    :param source: what to call it in messages.
    :param directory: where relative paths in it begin.
    :raises CondaError: see read_spec().
    """
    if isinstance(document, str):
        document = _load(document, source)
    return _checked(Spec(source, directory, document))


def spec_from_packages(packages: t.Sequence[t.Any], channels: t.Sequence[str] = (), source: str = "packages") -> Spec:
    """The spec of an environment that is given by a list of *packages*, as `dependencies:` lists them.

    :raises CondaError: see read_spec().
    """
    return parse_spec({"channels": list(channels), "dependencies": packages}, source)


def _checked(spec: Spec) -> Spec:
    for platform in spec.platforms or ("linux-64",):
        spec.for_platform(platform)
    return spec


class _Loader(yaml.SafeLoader):  # and not CSafeLoader, which crashes on deep nesting
    """Leaves scalars as they are written, so that a version 1.10 stays one, and takes no key twice."""

    def construct_mapping(self, node: t.Any, deep: bool = False) -> t.Any:
        keys = [key.value for key, _value in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.endswith((":null", ":str", ":seq", ":map"))
}


def _is_text(value: t.Any) -> bool:
    """Whether *value* is a text, or a number that a YAML parser has made of one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() < 1000
    return isinstance(value, str)


def _load(text: str, source: str) -> t.Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise CondaError(f"{source} is no YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, ValueError) as error:
        raise CondaError(f"{source} cannot be read as YAML: {error}") from error


def _selector_of(line: str) -> re.Match[str] | None:
    """The selector at the end of *line*, if it has one. A longer line takes its time, and has none."""
    return None if len(line) > 1000 or line.lstrip().startswith("#") else _COMMENT_SELECTOR.fullmatch(line)


def _selected(text: str, platform: str, source: str) -> t.Iterator[str]:
    """The lines of *text* for *platform*: those without a selector, and those whose selector holds."""
    for number, line in enumerate(text.splitlines(), 1):
        match = _selector_of(line)
        if match is None:
            yield line
            continue
        # Directly behind the # it can only be meant as a selector, elsewhere it may be prose.
        meant = re.fullmatch(r"#\s?", match["comment"]) and re.fullmatch(r"[A-Za-z_][\w\s()]*", match["expression"])
        holds = _holds(match["expression"], platform, {**_SELECTORS, **_SYSTEMS})
        if holds is None and meant:
            raise CondaError(
                f"{source}, line {number}: the selector [{match['expression']:.80}] is not understood: "
                f"combine {', '.join([*_SYSTEMS, *_SELECTORS])} with and, or, not"
            )
        # An empty line in its place, for the numbers in YAML's own messages.
        yield "" if holds is False else line


def _holds(expression: str, platform: str, patterns: t.Mapping[str, str]) -> bool | None:
    """Whether a selector holds for *platform*; None where it is no selector."""

    def value(node: ast.AST) -> bool:
        if isinstance(node, ast.BoolOp):
            return (all if isinstance(node.op, ast.And) else any)([value(part) for part in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not value(node.operand)
        if isinstance(node, ast.Name):
            return re.fullmatch(patterns[node.id], platform) is not None
        raise KeyError(node)

    if len(expression) > 200:
        return None
    try:
        return value(ast.parse(expression.strip(), mode="eval").body)
    except (KeyError, SyntaxError, ValueError):
        return None


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads a parsed environment.yml for one platform."""

    source: str
    directory: str
    platform: str

    def wanted(self, document: dict[t.Any, t.Any]) -> Wanted:
        if strange := [key for key in document if key not in (*_KEYS, "allow-pypi-requests")]:
            plain = _is_text(strange[0]) and str(strange[0]).isprintable()
            raise self.error(
                f"{strange[0]!s:.80}" if plain else shown(strange[0]),
                f"unknown, and not one of {', '.join(_KEYS)}: take it out",
            )
        for key in ("name", "prefix", "category"):
            if document.get(key) is not None:
                self.text(document[key], key)
        if re.search(r"[/ :#]", str(document.get("name") or "")):
            raise self.error(
                "name", f"{shown(document['name'])} has one of the characters / : # or a space: choose another"
            )
        channels = self.texts(document, "channels")
        dependencies, pip = self.dependencies(document)
        return Wanted(
            channels=tuple(dict.fromkeys(self.channel(c) for c in channels if c not in ("nodefaults", "defaults"))),
            dependencies=dependencies,
            pip=pip,
            variables=self.variables(document),
            nodefaults="nodefaults" in channels,
            defaults="defaults" in channels,
        )

    def error(self, key: str, message: str) -> CondaError:
        return CondaError(f"{self.source}: {key}: {message}")

    def text(self, value: t.Any, key: str) -> str:
        """*value* as a text that is one line."""
        if not _is_text(value):
            raise self.error(key, f"a text is wanted, not {shown(value)}: put it in quotes if it is one")
        text = str(value).replace("\t", " ").strip()
        if not text or not text.isprintable():
            raise self.error(key, f"a line of text is wanted, not {shown(value)}")
        return text

    def texts(self, document: dict[str, t.Any], key: str) -> tuple[str, ...]:
        values = document.get(key)
        if values is None:
            return ()
        if not isinstance(values, (list, tuple)):
            raise self.error(key, f"a list is wanted, not {shown(values)}: begin each entry with a dash")
        return tuple(self.text(value, key) for value in values)

    def channel(self, channel: str) -> str:
        if channel.startswith(("/", "./", "../")):
            return f"file://{urllib.parse.quote(os.path.normpath(self.path(channel, 'channels')))}"
        try:
            parts = urllib.parse.urlsplit(channel)
        except ValueError as error:
            raise self.error("channels", f"{shown(channel)} is no URL: {error}") from error
        if "@" in parts.netloc or re.match(r"/t/[^/]+/", parts.path):
            raise self.error("channels", "a URL holds a password or token: give it to the channels of the site instead")
        if "://" not in channel and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", channel):
            raise self.error("channels", f"{shown(channel)} is neither a channel's name nor a URL")
        return channel.rstrip("/")

    def path(self, path: str, key: str) -> str:
        if not self.directory and not os.path.isabs(path):
            raise self.error(key, f"{shown(path, 120)} is relative, and there is no file that it could be relative to")
        return os.path.join(self.directory, path)

    def variables(self, document: dict[str, t.Any]) -> tuple[tuple[str, str], ...]:
        variables = {} if document.get("variables") is None else document["variables"]
        if not isinstance(variables, dict):
            raise self.error("variables", f"NAME: VALUE pairs are wanted, not {shown(variables)}")
        for name, value in variables.items():
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise self.error("variables", f"{shown(name)} is no name for a variable: use letters, digits and _")
            if not _is_text(value):
                raise self.error("variables", f"{name}: a text is wanted, not {shown(value)}: put it in quotes")
            if re.search("[\0\ud800-\udfff]", str(value)):
                raise self.error("variables", f"{name}: no environment can hold {shown(value)}")
        return tuple(sorted((name, str(value)) for name, value in variables.items()))

    def dependencies(self, document: dict[str, t.Any]) -> tuple[tuple[Dependency, ...], PipPart]:
        listed = document.get("dependencies")
        if not isinstance(listed, (list, tuple)):
            raise self.error("dependencies", f"a list of packages is wanted, not {shown(listed)}")
        found: list[Dependency] = []
        pip = _PipReader(self, [f"--extra-index-url={url}" for url in self.texts(document, "pip-repositories")])
        for entry in listed:
            if not isinstance(entry, dict):
                found.append(self.dependency(self.text(entry, "dependencies")))
                continue
            for key, value in entry.items():
                selector = _DICT_SELECTOR.fullmatch(key if isinstance(key, str) else "")
                if selector:
                    holds = _holds(selector[1], self.platform, _SYSTEMS)
                    if holds is None:
                        raise self.error("dependencies", f"{shown(key)}: use sel() of {', '.join(_SYSTEMS)}")
                    dependency = self.dependency(self.text(value, f"dependencies: {key}"))
                    found += [dependency] if holds else []
                elif key == "pip":
                    pip.read(self.texts(entry, "pip"), self.directory)
                else:
                    raise self.error("dependencies", f"{shown(key)} is no part that can be locked: only pip is")
        part = pip.part()
        # conda adds pip too, for somebody has to install them.
        if part.requirements and "pip" not in [dependency.name for dependency in found]:
            found.append(Dependency("pip"))
        return tuple(found), part

    def dependency(self, text: str) -> Dependency:
        """A match spec in any of the forms that conda takes."""
        if _PACKAGE_URL.fullmatch(text):
            name = urllib.parse.unquote(text).partition("#")[0].rsplit("/", 1)[-1].rsplit("-", 2)[0]
            return Dependency(name.lower(), text)
        plain = " ".join(text.split()).partition(" #")[0]
        plain = re.sub(r"([<>=!~,|]) | (?=[,|])", r"\1", plain)
        match = _DEPENDENCY.fullmatch(plain)
        if match is None:
            hint = "separate versions with a comma" if re.search(r"\d [<>=!~]", plain) else "write NAME VERSION BUILD"
            hint = "take the quotes out" if re.search("[=<>!~]['\"]", plain) else hint
            raise self.error("dependencies", f"{shown(text, 120)} is no package that conda would understand: {hint}")
        place, brackets = {"channel": match["channel"] or "", "subdir": ""}, match["brackets"]
        for key in place:
            if found := re.search(rf"(?<=[\[,])\s*{key}\s*=\s*(['\"]?)([^'\",\]]*)\1\s*,?", brackets):
                place[key] = found[2]
                brackets = brackets.replace(found[0], "").replace(",]", "]").replace("[]", "")
        channel, _slash, subdir = place["channel"].rpartition("/")
        if subdir in (*PLATFORMS, "noarch"):
            place = {"channel": channel, "subdir": subdir}
        if place["channel"]:
            place["channel"] = self.channel(place["channel"])
        version = match["version"] or ""
        # Before a build, conda's = means exactly this version.
        if match["build"] and re.match("=[^=]", version):
            version = version[1:] if version.endswith("*") else f"={version}"
        constraint = f"{version or '*'} {match['build']}" if match["build"] else version
        return Dependency(match["name"].lower(), constraint + brackets, **place)


class _PipReader:
    """Reads what pip would read as a requirements file."""

    def __init__(self, reader: _Reader, lines: t.Sequence[str]) -> None:
        self._reader = reader
        # By the names of PipPart's fields.
        self._found: dict[str, t.Any] = {
            name: [] for name in ("requirements", "constraints", "hashes", "extra_index_urls", "find_links")
        }
        self._open: list[str] = []
        self.read(lines, reader.directory)

    def part(self) -> PipPart:
        lists = {key: tuple(dict.fromkeys(v)) for key, v in self._found.items() if isinstance(v, list)}
        return PipPart(**{**self._found, **lists})

    def read(self, lines: t.Iterable[str], directory: str, kind: str = "requirements") -> None:
        """Take *lines*, in which relative paths begin at *directory*."""
        for line in lines:
            line = re.sub(r"(^|\s+)#.*", "", line).strip()
            if not line:
                continue
            try:
                if line.startswith("-"):
                    self._options(shlex.split(line), directory, kind)
                else:
                    self._requirement(line, kind)
            except ValueError as error:
                raise self._error(line, f"is not understood: {error}") from error

    def _error(self, line: str, message: str) -> CondaError:
        return self._reader.error("dependencies: pip", f"{shown(line, 200)} {message}")

    def _requirement(self, line: str, kind: str) -> None:
        # Not above: Ansible brings packaging along, but its import test does without.
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename

        if _VCS.match(line) or re.match(r"\.|~|file:|[^@;:]*/", line):
            raise self._error(line, f"has no hash that a lock could hold: {_EXACT_WHEEL}")
        text, _space, options = line.partition(" --")
        hashes = []
        for option in shlex.split(f"--{options}") if options else []:
            name, _equals, value = option.partition("=")
            if name != "--hash" or not re.fullmatch("sha256:[0-9a-f]{64}", value):
                raise self._error(line, f"has {shown(option)}, and only --hash=sha256: with 64 digits can stand here")
            hashes.append(value[7:])
        if re.match(r"\w+://", text):
            name = urllib.parse.unquote(text.partition("#")[0].rsplit("/", 1)[-1])
            try:
                text = f"{parse_wheel_filename(name)[0]} @ {text}"
            except InvalidWheelFilename as error:
                raise self._error(line, f"is no URL of a wheel: {_EXACT_WHEEL}") from error
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise self._error(line, f"is no requirement: {' '.join(str(error).split())}") from error
        if requirement.url and not urllib.parse.urlsplit(requirement.url).path.endswith(".whl"):
            raise self._error(line, f"is no URL of a wheel: {_EXACT_WHEEL}")
        self._found[kind].append(str(requirement))
        self._found["hashes"] += [(normalized(requirement.name), value) for value in hashes]

    def _options(self, words: list[str], directory: str, kind: str) -> None:
        line = " ".join(words)
        while words:
            option, equals, value = words.pop(0).partition("=")
            if not option.startswith("--") and len(option) > 2:
                option, equals, value = option[:2], "=", f"{option[2:]}{equals}{value}"

            def argument(given: str = value if equals else "") -> str:
                if not given and not words:
                    raise self._error(line, "lacks a value")
                return given or words.pop(0)

            if option in ("-r", "--requirement", "-c", "--constraint"):
                self._file(argument(), directory, "constraints" if option in ("-c", "--constraint") else kind)
            elif option in ("-i", "--index-url"):
                self._found["index_url"] = argument()
            elif option in _PIP_LISTS:
                place = argument()
                if _PIP_LISTS[option] == "find_links" and not re.match(r"\w+://|\$\{", place):
                    place = self._path(place, directory)
                self._found[_PIP_LISTS[option]].append(place)
            elif option in _PIP_FLAGS:
                self._found[_PIP_FLAGS[option]] = True
            elif option in _PIP_FULFILLED:
                if _PIP_FULFILLED[option]:
                    argument()
            elif option in ("-e", "--editable"):
                raise self._error(line, f"is editable, and no lock can hold that: {_EXACT_WHEEL}")
            else:
                raise self._error(line, f"has the option {option:.80}, which cannot be part of a lock: take it out")

    def _path(self, path: str, directory: str) -> str:
        return os.path.normpath(os.path.join(directory, path if directory else self._reader.path(path, "pip")))

    def _file(self, name: str, directory: str, kind: str) -> None:
        path = self._path(name, directory)
        if path in self._open:
            raise self._error(name, "includes itself")
        try:
            with open(path, encoding="utf-8-sig") as stream:
                text = stream.read()
        except (OSError, ValueError) as error:
            raise self._error(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        self._open.append(path)
        self.read(re.sub(r"\\\r?\n", " ", text).splitlines(), os.path.dirname(path), kind)
        self._open.pop()
