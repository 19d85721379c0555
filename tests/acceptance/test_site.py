"""What a run costs, and how a machine becomes a node."""

from __future__ import annotations

import re

import pytest

from acceptance import cluster

UPGRADE = ("--extra-vars", '{"conda_envs_shared": [{"name": "tools", "lock": "envs/tools/conda-lock-next.yml"}]}')


def executions(output: str) -> int:
    """The number of remote module executions that the summary tells."""
    (number,) = re.findall(rf"^{cluster.NODE}: remote module executions: (\d+)$", output, re.MULTILINE)
    return int(number)


@pytest.mark.usefixtures("converged_node")
def test_second_run_changes_nothing_and_costs_one_look() -> None:
    before = cluster.snapshot()
    code, output = cluster.playbook("site", "-vvv")
    assert code == 0, output
    assert re.search(rf"^{cluster.NODE} .* changed=0 ", output, re.MULTILINE), output
    assert cluster.snapshot() == before
    # The summary counts results. What really went over ssh is in the verbose output.
    assert executions(output) == output.count("SSH: EXEC") == 1


@pytest.mark.usefixtures("converged_node")
def test_check_mode_tells_what_the_run_then_does() -> None:
    before = cluster.snapshot()
    code, planned = cluster.playbook("site", "--check", "--diff", *UPGRADE)
    assert code == 0, planned
    assert cluster.snapshot() == before
    code, done = cluster.playbook("site", "--diff", *UPGRADE)
    assert code == 0, done
    for line in ("-six 1.16.0 pyh_0", "+six 1.17.0 pyh_0", "-pip 26.3 pyh_0"):
        assert line in planned
        assert line in done
    steps = re.findall(r"^    (?:would )?((?:build|point) .*)$", planned, re.MULTILINE)
    assert steps
    assert steps == re.findall(r"^    ((?:build|point) .*)$", done, re.MULTILINE)


@pytest.mark.usefixtures("converged_node")
def test_rollback_goes_back_at_once_and_site_goes_forward_again() -> None:
    for arguments in (UPGRADE, ()):
        code, output = cluster.playbook("site", *arguments)
        assert code == 0, output
    declared = cluster.environment_state()
    code, output = cluster.playbook("rollback", "--extra-vars", "conda_envs_rollback_name=tools")
    assert code == 0, output
    older = cluster.environment_state()
    assert older != declared
    (finding,) = cluster.drift()[cluster.NODE]
    assert (finding["subject"], finding["fix"]) == ("/opt/envfleet/envs/tools", "auto")
    code, output = cluster.playbook("rollback", "--extra-vars", "conda_envs_rollback_name=tols")
    assert code != 0
    assert "tols has no generation previous on this node: there is none" in " ".join(output.split())
    code, output = cluster.playbook("site")
    assert code == 0, output
    assert cluster.environment_state() == declared


def test_bootstrap_refuses_a_run_without_a_node() -> None:
    for arguments in ((), ("--extra-vars", "node=stranger")):
        code, output = cluster.playbook("bootstrap", *arguments)
        assert code != 0
        assert "which must be in the inventory: -e node=NAME" in output


@pytest.mark.usefixtures("empty_node")
def test_bootstrap_brings_python_and_all_the_rest() -> None:
    cluster.on_node("DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq 'python3*'")
    assert cluster.on_node("command -v python3", check=False).returncode != 0
    code, output = cluster.playbook("bootstrap", "--extra-vars", f"node={cluster.NODE}")
    assert code == 0, output
    assert cluster.environment_state()
