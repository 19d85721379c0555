"""Which variables are misspelled."""

from __future__ import annotations

from ansible_collections.envfleet.gpu_cluster.plugins.filter.roles import unknown_variables


def test_only_what_begins_like_a_role_can_be_misspelled() -> None:
    assert unknown_variables(["miniconda_version", "conda_envs_driver", "minicondas", "conda_env"]) == []
    assert unknown_variables(["conda_envs_dri", "miniconda_verison"]) == ["conda_envs_dri", "miniconda_verison"]
