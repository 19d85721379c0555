"""What drifts is named exactly, corrected by the next run, and then gone."""

from __future__ import annotations

import re
import shlex

import pytest

from acceptance import cluster

ENV = "/opt/envfleet/envs/tools"
# Runs on the node: writes the wheel of a package that no lock has.
WHEEL = """
import zipfile
with zipfile.ZipFile("byhand-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("byhand.py", "")
    info = "byhand-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: byhand\\nVersion: 1.0\\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr(info + "RECORD", "".join(name + ",,\\n" for name in wheel.namelist()))
"""

DRIFT = [
    pytest.param(
        f"rm {ENV}/lib/python3.10/site-packages/six.py",
        ["environment tools: lib/python3.10/site-packages/six.py: missing: file of six 1.16.0"],
        id="file-deleted",
    ),
    pytest.param(
        f"echo '# edited' >>$(readlink -e {ENV})/lib/python3.10/site-packages/six.py",
        ["environment tools: lib/python3.10/site-packages/six.py: changed: file of six 1.16.0"],
        id="file-edited",
    ),
    pytest.param(
        f"python3 -c {shlex.quote(WHEEL)}; "
        f"{ENV}/bin/python -m pip install -q --break-system-packages --no-index ./byhand-1.0-py3-none-any.whl",
        ["environment tools: byhand: foreign: byhand 1.0 was installed by hand with pip"],
        id="package-installed-by-hand",
    ),
    pytest.param(
        "echo 'channels: [defaults]' >>/etc/conda/.condarc",
        ["policy: /etc/conda/.condarc: content"],
        id="condarc-edited",
    ),
    pytest.param(f"ln -sfn /nowhere {ENV}", [f"environment tools: {ENV}: link: leads to /nowhere"], id="link-broken"),
    pytest.param(
        f"chmod 0777 $(readlink -e {ENV})/bin", ["environment tools: bin: changed:"], id="directory-world-writable"
    ),
    pytest.param("rm -rf $(readlink -e /opt/conda)", ["base: /opt/conda: link: leads to"], id="base-deleted"),
    pytest.param("rm /opt/conda", ["base: /opt/conda: absent"], id="base-link-deleted"),
]


@pytest.mark.usefixtures("converged_node")
@pytest.mark.parametrize(("injury", "expected"), DRIFT)
def test_drift_is_named_then_corrected_then_gone(injury: str, expected: list[str]) -> None:
    cluster.on_node(injury)

    code, output = cluster.playbook("check")
    assert code != 0
    findings = re.findall(r"^\s+- (.*)$", output, re.MULTILINE)
    assert len(findings) == len(expected), output
    for line, wanted in zip(findings, expected, strict=True):
        assert wanted in line

    code, output = cluster.playbook("site")
    assert code == 0, output
    code, output = cluster.playbook("check")
    assert code == 0, output
    assert cluster.environment_state()
