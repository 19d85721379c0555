"""Say what a person can do after `make site`: python tools/next_steps.py INVENTORY."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import yaml

DEMO = "inventory/demo/hosts.yml"
USER = "alice"
ENVIRONMENT = "shared_ml"


def login(inventory: Path) -> str:
    """The ssh command that takes a person to the demo's first node, from what the lab wrote beside the inventory."""
    from lab.inventory import read_inventory

    variables = yaml.safe_load((inventory.parent / "group_vars" / "all" / "lab.yml").read_text())
    node = read_inventory(inventory).nodes[0]
    options = [f"-oUserKnownHostsFile={variables['lab_ssh_known_hosts']}", "-i", variables["lab_ssh_key"]]
    return shlex.join(["ssh", *options, "-p", str(node.port), f"{USER}@127.0.0.1"])


def main() -> None:
    """Print the next steps for the inventory named on the command line."""
    inventory = sys.argv[1].rstrip("/")
    demo = inventory == DEMO
    print(f"\nThe nodes of {inventory} are as its variables and locks say. What to try next:\n")
    if demo:
        print(f"  {login(Path(inventory))}")
        print(f"      log in on a node as the user {USER}, then: conda activate {ENVIRONMENT}\n")
    print(f"  make check{'' if demo else f' INVENTORY={shlex.quote(inventory)}'}")
    print("      what differs from the desired state, at any later time; nothing is changed\n")
    if demo:
        print("  make site INVENTORY=PATH")
        print("      the same for your own machines; make lab-down removes the demo's nodes")


if __name__ == "__main__":
    main()
