"""The module's interface: what it takes, returns and refuses. What it does is tested with installer.py."""

from __future__ import annotations

import hashlib
import json
import platform
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.modules import miniconda

SCRIPT = """set -e
mkdir -p "$3/conda-meta" "$3/bin"
touch "$3/conda-meta/history" "$3/bin/python" "$3/bin/conda"
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, t.Any]:
    script = tmp_path / f"Base-1.0-1-Linux-{platform.machine()}.sh"
    script.write_text(SCRIPT)
    return {
        "version": "1.0-1",
        "url": script.with_name("Base-1.0-1-Linux-{architecture}.sh").as_uri().replace("%7B", "{").replace("%7D", "}"),
        "sha256": hashlib.sha256(script.read_bytes()).hexdigest(),
        "prefix": str(tmp_path / "conda"),
        "versions_dir": str(tmp_path / "base"),
        "min_free_mb": 1,
        "min_glibc": "2.17",
    }


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> t.Callable[..., dict[str, t.Any]]:
    """Call the module as Ansible does, and give what it prints."""

    def call(options: dict[str, t.Any], **internal: t.Any) -> dict[str, t.Any]:
        arguments = {**options, **{f"_ansible_{name}": value for name, value in internal.items()}}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            miniconda.main()
        answer: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_life_of_a_base(options: dict[str, t.Any], run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    prefix = str(tmp_path / "base" / "1.0-1")
    planned = run(options, check_mode=True, diff=True)
    assert not (tmp_path / "base").exists()
    done = run(options, diff=True)
    for answer in (planned, done):
        assert answer["changed"]
        assert answer["actions"] == [f"install base 1.0-1 in {prefix}", f"point {options['prefix']} to {prefix}"]
        assert (answer["prefix"], answer["version"], answer["previous"]) == (prefix, "1.0-1", None)
        assert answer["diff"]["before"] == "absent\n"
        assert answer["diff"]["after"] == f"version: 1.0-1\nprefix: {prefix}\n"
    again = run(options)
    assert not again["changed"]
    assert (again["prefix"], again["previous"], again["actions"], again["diff"]) == (prefix, prefix, [], {})
    removed = run({"state": "absent", "prefix": options["prefix"], "versions_dir": options["versions_dir"]})
    assert removed["changed"]
    assert (removed["prefix"], removed["version"], removed["previous"]) == (None, "", prefix)
    assert not (tmp_path / "base" / "1.0-1").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": ""}, "miniconda_installer_sha256: no sha256 is known for 1.0-1 on "),
        ({"url": "http://127.0.0.1:1/x.sh"}, "miniconda_installer_url: http://127.0.0.1:1/x.sh cannot be read: "),
        ({"version": None}, "state is present but all of the following are missing: version"),
        ({"min_free_mb": "much"}, "argument 'min_free_mb' is of type"),
    ],
)
def test_refusals(
    options: dict[str, t.Any], run: t.Callable[..., dict[str, t.Any]], changes: dict[str, t.Any], message: str
) -> None:
    answer = run({key: value for key, value in {**options, **changes}.items() if value is not None})
    assert answer["failed"]
    assert message in answer["msg"]
    assert not Path(options["prefix"]).is_symlink()
