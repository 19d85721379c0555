#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_proof
short_description: Prove that an audit log is whole, or tell where it breaks
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Reads every line of a log that P(envfleet.gpu_cluster.audit#callback) has written, from the oldest file to the
    newest, and fails at the first one that was changed, that is missing, or that is out of order.
  - It must run where the log is, as a user who may read it, and takes the log's own lock meanwhile.
options:
  directory:
    description: The directory of the log.
    type: path
    required: true
  sum:
    description:
      - The sum of a line that journald or another machine was told of, which the log must have too. It finds what a
        chain alone cannot, a log that was written anew from its first line.
    type: str
    default: ""
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.read_only
"""

EXAMPLES = r"""
- name: Prove the log of the control node
  envfleet.gpu_cluster.audit_proof:
    directory: /var/log/envfleet
  delegate_to: localhost

- name: Prove that it still has what the machine for logs was told last
  envfleet.gpu_cluster.audit_proof:
    directory: /var/log/envfleet
    sum: "{{ sum_at_the_log_host }}"
  delegate_to: localhost
"""

RETURN = r"""
lines:
  description: How many lines have been proved.
  type: int
  returned: always
  sample: 1204
first:
  description: The number of the first line that is kept.
  type: int
  returned: always
  sample: 1
last:
  description: The number of the last line, as the log says beside its lines.
  type: int
  returned: always
  sample: 1204
sum:
  description: The sum of the last line. The journal, and whoever is told by syslog, must have it too.
  type: str
  returned: always
  sample: 3f0a1d5e7c9b2a4860f1d3b5c7e9fa0b2c4d6e8f0a1b3c5d7e9f1a2b4c6d8e0f
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._audit.log import AuditError, Log


def main() -> None:
    module = AnsibleModule(
        argument_spec={"directory": {"type": "path", "required": True}, "sum": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    try:
        proof = Log(module.params["directory"]).prove(module.params["sum"])
    except (AuditError, OSError) as error:
        module.fail_json(f"directory: the log cannot be read: {error}")
    told = {"lines": proof.lines, "first": proof.head.first, "last": proof.head.last, "sum": proof.head.sum}
    if proof.problem:
        module.fail_json(f"the audit log is not whole: {proof.problem}", **told)
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
