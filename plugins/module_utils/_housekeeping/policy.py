# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to become of an environment. Pure: times and facts come in, and a decision goes out."""

from __future__ import annotations

import dataclasses

DAY = 86400.0
#: By how much a note of use may be older than the use: see _envfleet_use.
ROUNDING = 60.0


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which environments nobody needs any more: all that is said must be true of one."""

    unused_days: float
    min_mb: float = 0
    min_inodes: int = 0


@dataclasses.dataclass(frozen=True)
class Policy:
    """When an environment goes which step."""

    rules: tuple[Rule, ...]
    notice_days: float = 14  #: from the warning to the day on which it is set aside
    grace_days: float = 30  #: from then to its removal
    exempt_users: frozenset[str] = frozenset({"root"})


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of an environment now."""

    owner: str
    in_use: bool  #: by a process, here or on another node, or perhaps
    last_use: float | None
    noted_since: float | None  #: before that, nothing is known of its use
    bytes: int
    inodes: int
    kept: bool  #: has its owner asked for it?
    holds: str = ""  #: what else is in it that must not go with it


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to do, and why, for a person."""

    action: str  #: keep, wait, warn, set_aside, remove
    reason: str


def of_environment(facts: Facts, policy: Policy, warned_at: float | None, now: float) -> Decision:
    """What becomes of an environment in its place.

    :param warned_at: when its owner was told what would come, if that was done.
    """
    untouchable = _untouchable(facts, policy)
    if untouchable:
        return Decision("keep", untouchable)
    if facts.noted_since is None:
        return Decision("keep", "its use is not noted yet")
    unused = unused_seconds(facts, now)
    rule = next((rule for rule in policy.rules if _matches(rule, facts, unused)), None)
    if rule is None:
        return Decision("keep", f"not used for {_days(unused)}, which is allowed")
    said = f"not used for {_days(unused)}, {rule.unused_days:g} are allowed"
    if rule.min_mb or rule.min_inodes:
        said += " to one of its size"
    if warned_at is None:
        return Decision("warn", said)
    left = policy.notice_days * DAY - max(0.0, now - warned_at)
    if left > 0:
        return Decision("wait", f"{said}; is set aside in {_days(left)}")
    return Decision("set_aside", said)


def of_set_aside(facts: Facts, policy: Policy, moved_at: float, now: float) -> Decision:
    """What becomes of one that was set aside."""
    untouchable = _untouchable(facts, policy)
    if untouchable:
        return Decision("keep", f"is set aside, but {untouchable}")
    left = policy.grace_days * DAY - max(0.0, now - moved_at)
    if left > 0:
        return Decision("wait", f"is set aside, and removed in {_days(left)}")
    return Decision("remove", f"was set aside {_days(now - moved_at)} ago, {policy.grace_days:g} are allowed")


def unused_seconds(facts: Facts, now: float) -> float:
    """For how long nobody has used it, as far as that is certain. What lies in the future is now."""
    known = [at for at in (facts.last_use, facts.noted_since) if at is not None]
    return max(0.0, now - max(known)) if known else 0.0


def _untouchable(facts: Facts, policy: Policy) -> str:
    if facts.in_use:
        return "in use"
    if facts.kept:
        return "kept by its owner"
    if facts.holds:
        return f"{facts.holds} in it"
    if facts.owner in policy.exempt_users:
        return "its owner is exempt"
    return ""


def _matches(rule: Rule, facts: Facts, unused: float) -> bool:
    return (
        unused > rule.unused_days * DAY + ROUNDING
        and facts.bytes >= rule.min_mb * 2**20
        and facts.inodes >= rule.min_inodes
    )


def _days(seconds: float) -> str:
    days = seconds / DAY
    return f"{days:.0f} days" if days >= 2 else f"{days:.1f} days"
