"""The errors that conda reports, under conda's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class CondaError(Exception):
    """What a user is told. `details` go into the JSON beside the message."""

    return_code = 1

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def name(self) -> str:
        return type(self).__name__

    def as_json(self) -> dict[str, Any]:
        """The object that conda prints with --json."""
        common = {
            "caused_by": "None",
            "error": f"{self.name}: {self.message}",
            "exception_name": self.name,
            "exception_type": f"<class 'conda.exceptions.{self.name}'>",
            "message": self.message,
        }
        return dict(sorted((common | self.details).items()))


class ArgumentError(CondaError):
    return_code = 2


class CondaValueError(CondaError):
    pass


class CondaEnvException(CondaError):
    pass


class CondaHTTPError(CondaError):
    pass


class ChecksumMismatchError(CondaError):
    pass


class ConfigurationLoadError(CondaError):
    pass


class DirectoryNotACondaEnvironmentError(CondaError):
    def __init__(self, location: str) -> None:
        super().__init__(f"The target directory exists, but it is not a conda environment.\nTarget directory: {location}")

    def __reduce__(self) -> Any:
        return CondaError.__reduce__(self)


class EnvironmentFileNotFound(CondaError):
    pass


class EnvironmentNameNotFound(CondaError):
    pass


class InvalidSpec(CondaError):
    pass


class NoChannelsConfiguredError(CondaError):
    pass


class NoWritableEnvsDirError(CondaError):
    pass


class NoWritablePkgsDirError(CondaError):
    pass


class OfflineError(CondaError):
    pass


class OperationNotAllowed(CondaError):
    pass


class UnavailableInvalidChannel(CondaError):
    pass


class UnsatisfiableError(CondaError):
    pass
