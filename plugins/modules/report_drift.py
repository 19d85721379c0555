#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: report_drift
short_description: Hand the findings of a node to the drift report
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Tells P(envfleet.gpu_cluster.drift_report#callback) what a node has that it should not have. A node with an empty
    list is clean. A node for which nobody reported is not shown as clean.
  - It may be used several times for a node. The findings add up.
  - Everything happens on the control node. The node itself is not reached.
options:
  findings:
    description:
      - The differences, as P(envfleet.gpu_cluster.base_findings#filter) and its kin list them.
      - They go into files that everybody may read, so they must hold no secrets.
    type: list
    elements: dict
    required: true
    suboptions:
      component:
        description:
          - What the difference is in, such as V(base) or V(environment torch).
          - The first word is its kind, which the metrics have as a label.
        type: str
        required: true
      subject:
        description: The path or package that it is about.
        type: str
        required: true
      expected:
        description: What should be there.
        type: str
        required: true
      actual:
        description: What is there.
        type: str
        required: true
      severity:
        description: With V(error) users are affected. With V(warning) they are not yet.
        type: str
        choices: [error, warning]
        default: error
      fix:
        description:
          - V(auto) is what the next run corrects.
          - V(drain) needs a node without jobs.
          - V(human) is for a person to decide.
        type: str
        choices: [auto, drain, human]
        default: auto
  fail:
    description:
      - Fail the host if it has drifted.
      - A warning with the fix V(human) fails nothing, as nobody suffers from it and a person may leave it as it is.
    type: bool
    default: false
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.read_only
attributes:
  action:
    description: Has an action plugin, which does all the work on the control node.
    support: full
seealso:
  - plugin: envfleet.gpu_cluster.drift_report
    plugin_type: callback
"""

EXAMPLES = r"""
- name: Report the drift of the base
  envfleet.gpu_cluster.report_drift:
    findings: "{{ gpu_cluster_look.node | envfleet.gpu_cluster.base_findings('/opt/miniconda3', identity) }}"
    fail: true

- name: Report what only the site knows of
  envfleet.gpu_cluster.report_drift:
    findings:
      - component: rack
        subject: power supply 2
        expected: redundant
        actual: failed
        severity: warning
        fix: human
"""

RETURN = r"""
msg:
  description: The findings as lines for a person, or that there are none.
  returned: always
  type: raw
  sample: Nothing has drifted.
drift_findings:
  description: The findings, complete.
  returned: when the options are good
  type: list
  elements: dict
  contains:
    component:
      description: What the difference is in.
      type: str
      returned: always
      sample: base
    subject:
      description: The path or package that it is about.
      type: str
      returned: always
      sample: /opt/miniconda3
    expected:
      description: What should be there.
      type: str
      returned: always
      sample: 26.1.1-1
    actual:
      description: What is there.
      type: str
      returned: always
      sample: absent
    severity:
      description: C(error) or C(warning).
      type: str
      returned: always
      sample: error
    fix:
      description: C(auto), C(drain) or C(human).
      type: str
      returned: always
      sample: auto
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "findings": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "component": {"type": "str", "required": True},
            "subject": {"type": "str", "required": True},
            "expected": {"type": "str", "required": True},
            "actual": {"type": "str", "required": True},
            "severity": {"type": "str", "choices": ["error", "warning"], "default": "error"},
            "fix": {"type": "str", "choices": ["auto", "drain", "human"], "default": "auto"},
        },
    },
    "fail": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="report_drift runs on the control node, where Ansible calls its action plugin instead of this")


if __name__ == "__main__":
    main()
