# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of report_drift: its result carries the findings to the callback drift_report."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ..module_utils._node.findings import Finding
from ..modules.report_drift import ARGUMENT_SPEC


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Check the findings, and hand them on."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Fail only for what somebody should do something about."""
        super().run(tmp, task_vars)
        _valid, arguments = self.validate_argument_spec(ARGUMENT_SPEC)
        findings = [Finding(**finding) for finding in arguments["findings"]]
        drift = [finding for finding in findings if (finding.severity, finding.fix) != ("warning", "human")]
        return {
            "changed": False,
            "failed": bool(drift) and arguments["fail"],
            "msg": [finding.text() for finding in findings] or "Nothing has drifted.",
            "drift_findings": [finding.as_dict() for finding in findings],
            "_ansible_verbose_always": bool(findings),
        }
