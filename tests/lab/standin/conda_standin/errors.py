"""The errors that conda reports, under conda's names and with conda's details."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class CondaError(Exception):
    """What a user is told: the name that conda gives the error, a message, and details for the JSON beside it."""

    def __init__(self, name: str, message: str, **details: Any) -> None:
        super().__init__(name, message)
        self.name = name
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"

    @property
    def return_code(self) -> int:
        return 2 if self.name == "ArgumentError" else 1

    def as_json(self) -> dict[str, Any]:
        """The object that conda prints with --json."""
        common = {
            "caused_by": "None",
            "error": str(self),
            "exception_name": self.name,
            "exception_type": f"<class 'conda.exceptions.{self.name}'>",
            "message": self.message,
        }
        return dict(sorted((common | self.details).items()))


class CondaMultiError(CondaError):
    """Errors of several packages."""

    def __init__(self, errors: Sequence[CondaError]) -> None:
        super().__init__("CondaMultiError", "\n".join(str(error) for error in errors))
        self.errors = list(errors)

    def __reduce__(self) -> tuple[type[CondaMultiError], tuple[list[CondaError]]]:
        return type(self), (self.errors,)

    def __str__(self) -> str:
        return self.message

    def as_json(self) -> dict[str, Any]:
        return {
            "exception_type": "<class 'conda.CondaMultiError'>",
            "exception_name": self.name,
            "errors": [error.as_json() for error in self.errors],
            "error": "Multiple Errors Encountered.",
        }


def no_environment(prefix: Path) -> CondaError:
    return CondaError("EnvironmentLocationNotFound", f"Not a conda environment: {prefix}", location=str(prefix))


def frozen(prefix: Path, reason: str) -> CondaError:
    because = f"Reason:\n\n    {reason}\n\n" if reason else ""
    message = f"Cannot modify '{prefix}'. The environment is marked as frozen. {because}"
    message += "You can bypass these protections with the `--override-frozen` flag, at your own risk."
    return CondaError("EnvironmentIsFrozenError", message)


def not_writable(prefix: Path) -> CondaError:
    uid, gid = os.geteuid(), os.getegid()
    message = "The current user does not have write permissions to the target environment.\n"
    message += f"  environment location: {prefix}\n  uid: {uid}\n  gid: {gid}\n"
    return CondaError("EnvironmentNotWritableError", message, environment_location=str(prefix), uid=uid, gid=gid)


def checksum_mismatch(url: str, kind: str, expected: str, actual: str) -> CondaError:
    message = f"The package at {url} is not the one that was asked for."
    message += f"\n  expected {kind}: {expected}\n  actual {kind}: {actual}"
    details = {"checksum_type": kind, "expected_checksum": expected, "actual_checksum": actual}
    return CondaError("ChecksumMismatchError", message, url=url, **details)
