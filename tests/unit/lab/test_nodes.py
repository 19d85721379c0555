"""The known_hosts file that the lab keeps."""

from __future__ import annotations

from lab.nodes import known_hosts


def test_a_remade_node_replaces_its_keys_and_no_others() -> None:
    before = "[127.0.0.1]:2221 ssh-ed25519 old\n[127.0.0.1]:2221 ssh-rsa old\n[127.0.0.1]:2222 ssh-ed25519 kept\n"
    assert known_hosts(before, {2221: ["ssh-ed25519 new"], 2223: ["ssh-ed25519 third"]}) == (
        "[127.0.0.1]:2221 ssh-ed25519 new\n[127.0.0.1]:2222 ssh-ed25519 kept\n[127.0.0.1]:2223 ssh-ed25519 third\n"
    )
