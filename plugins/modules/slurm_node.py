#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_node
short_description: Take a node out of Slurm's work, and give it back
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Drains one node, waits until its jobs have ended, and resumes it. No job is ever ended by it.
  - It runs on a host with C(scontrol) and C(squeue), as root or as the SlurmUser; usually it is delegated to the
    controller.
  - Only what it drained itself is resumed. Its drains are known by O(mark), with which their reason begins. The mark is
    in Slurm and nowhere else, so a run that was killed is taken up by the next one.
  - What somebody else has drained is left exactly as it is, and RV(left) tells so.
  - Slurm has no way to look and to drain in one step. Who drains the node by hand in the fraction of a second between
    the two has his reason replaced.
options:
  name:
    description: The node as Slurm calls it, which may differ from its name in the inventory.
    type: str
    required: true
  state:
    description:
      - V(drained) lets no new job start, and waits for those that are there. It is an error where the node is neither
        drained nor able to take jobs, as in C(DOWN) or C(FAIL).
      - V(resumed) lets jobs start again, if the drain is one of ours, also where the node has been C(DOWN) meanwhile.
      - Without it, the module only tells how the node is.
    type: str
    choices: [drained, resumed]
  reason:
    description:
      - Why it is drained, in one line. Required with V(drained).
      - Slurm has it behind O(mark) and a colon. The reason of a drain that is ours already is not changed.
    type: str
  mark:
    description: What the reasons of our own drains begin with, without a colon.
    type: str
    default: envfleet
  timeout:
    description:
      - How long to wait for jobs, and for a node that does not answer the controller just now, in seconds.
      - Where jobs are left then, the node stays drained, RV(jobs) lists them, and the module does not fail.
    type: float
    default: 86400
  poll:
    description: The time between two looks while it waits, in seconds.
    type: float
    default: 5
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
"""

EXAMPLES = r"""
- name: Drain the node and wait up to two hours for its jobs
  envfleet.gpu_cluster.slurm_node:
    name: "{{ inventory_hostname_short }}"
    state: drained
    reason: driver 580.95.05
    timeout: 7200
  delegate_to: slurm-controller
  register: drain

- name: Give it back, if the drain is ours
  envfleet.gpu_cluster.slurm_node:
    name: "{{ inventory_hostname_short }}"
    state: resumed
  delegate_to: slurm-controller
"""

RETURN = r"""
states:
  description: The state that the controller tells, and the flags that are set.
  type: list
  elements: str
  returned: success
  sample: [IDLE, DRAIN]
reason:
  description: The first line of the reason that the controller tells, empty for none.
  type: str
  returned: success
  sample: "envfleet: driver 580.95.05"
ours:
  description: Whether the node is drained, and by O(mark).
  type: bool
  returned: success
drained:
  description: Whether RV(ours), and no job is left on the node.
  type: bool
  returned: success
jobs:
  description: The jobs that have a part of the node, suspended ones and those that are ending too.
  type: list
  elements: dict
  returned: success
  contains:
    id:
      description: As squeue shows it.
      type: str
      sample: "1204"
    user:
      description: Whose it is.
      type: str
      sample: alice
    state:
      description: Its state, such as V(RUNNING) or V(SUSPENDED).
      type: str
      sample: RUNNING
left:
  description: Why the node was left as it is, where somebody else is at it. Empty elsewhere.
  type: str
  returned: success
  sample: "node-3 is IDLE+DRAIN by root: fan 3, which is not ours"
actions:
  description: What was done, or would be, in order.
  type: list
  elements: str
  returned: success
  sample: ["drain node-3 (envfleet: driver 580.95.05)"]
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._slurm import draining
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._slurm.controller import Controller, SlurmError


def controller(module: AnsibleModule) -> Controller:
    """The controller, asked through the commands of this host."""
    # Somebody's filters would hide jobs.
    for name in [name for name in os.environ if name.startswith("SQUEUE_")]:
        del os.environ[name]

    def run(command: list[str]) -> tuple[int, str, str]:
        path = module.get_bin_path(command[0])
        if path is None:
            raise SlurmError(f"there is no {command[0]} on this host: delegate the task to one with Slurm's commands")
        code, output, errors = module.run_command([path, *command[1:]], environ_update={"LC_ALL": "C.UTF-8"})
        return int(code), str(output), str(errors)

    return Controller(run)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "resumed"]},
            "reason": {"type": "str"},
            "mark": {"type": "str", "default": "envfleet"},
            "timeout": {"type": "float", "default": 86400},
            "poll": {"type": "float", "default": 5},
        },
        required_if=[("state", "drained", ["reason"])],
        supports_check_mode=True,
    )
    params = module.params
    try:
        wish = draining.Wish(
            name=params["name"],
            state=params["state"] or "",
            mark=params["mark"],
            reason=params["reason"] or "",
            timeout_seconds=params["timeout"],
            poll_seconds=params["poll"],
        )
        done = draining.converge(controller(module), wish, module.check_mode)
    except SlurmError as error:
        module.fail_json(msg=str(error))
    ours = done.node.has(wish.mark)
    module.exit_json(
        changed=bool(done.actions),
        states=list(done.node.states),
        reason=done.node.reason,
        ours=ours,
        drained=ours and not done.jobs,
        jobs=[job.as_dict() for job in done.jobs],
        left=done.left,
        actions=done.actions,
        diff={"before": done.before, "after": done.after(wish)} if done.actions else {},
    )


if __name__ == "__main__":
    main()
