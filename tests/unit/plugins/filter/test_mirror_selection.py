"""The list that the role channel_mirror writes on a mirror."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.envfleet.gpu_cluster.plugins.filter.mirror_selection import mirror_selection

CHANNEL = {"name": "forge", "url": "https://conda.example.org/forge/"}
LOCK = f"@EXPLICIT\nhttps://conda.example.org/forge/linux-64/six-1.17.0-0.conda#{'a' * 64}\n"


def test_a_file_is_a_line_so_that_a_difference_tells_which(tmp_path: Path) -> None:
    (tmp_path / "explicit.txt").write_text(LOCK)
    files = [{"url": "https://x.example.org/y.sh", "sha256": "b" * 64}]
    text = mirror_selection(["*.txt"], str(tmp_path), [CHANNEL], ["linux-64"], "https://m.example.org", files)
    assert len(text.splitlines()) == 4
    assert [file["path"] for file in json.loads(text)["files"]] == ["files/y.sh", "forge/linux-64/six-1.17.0-0.conda"]
    assert json.loads(mirror_selection([], str(tmp_path), [], [], "https://m.example.org")) == {"files": []}


def test_what_cannot_be_mirrored_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match=r"channel_mirror_locks: .*nowhere\.txt"):
        mirror_selection(["nowhere.txt"], str(tmp_path), [CHANNEL], ["linux-64"], "https://m.example.org")
    with pytest.raises(AnsibleFilterError, match="channel_mirror_channels: 'files' is no name"):
        mirror_selection([], str(tmp_path), [{**CHANNEL, "name": "files"}], ["linux-64"], "https://m.example.org")
    files = [{"url": "https://x.example.org/y.sh", "sha256": "none"}]
    with pytest.raises(AnsibleFilterError, match=r"channel_mirror_files: files/y\.sh: 'none' is no sha256"):
        mirror_selection([], str(tmp_path), [CHANNEL], ["linux-64"], "https://m.example.org", files)
