"""Every error that mlload raises on purpose, and the exit code each one ends the command line with.

MlloadError                     1  unexpected
├── UsageError                  2  the command or the call is wrong
├── NotFoundError               3  no such checkpoint, revision or file
│   ├── AccessDeniedError       3  it exists, but not for this user (gated, private)
│   └── NetworkError            3  the hub can't be reached, or goes on failing
├── InvalidCheckpointError      4  a file is not what it claims to be
├── DoesNotFitError             5  not enough memory, or the hardware is not there
├── MissingDependencyError      6  an optional package is not installed
└── ThresholdExceededError      7  a check that the user asked for failed
"""

from __future__ import annotations

from typing import ClassVar

from .text import printable


class MlloadError(Exception):
    """Base of all errors raised on purpose: one line of message, and a hint that says what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = printable(message, limit=500)
        self.hint = None if hint is None else printable(hint, limit=500)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"


class UsageError(MlloadError):
    """The command line or the call is wrong."""

    exit_code = 2


class NotFoundError(MlloadError):
    """There is no such checkpoint, revision or file."""

    exit_code = 3


class AccessDeniedError(NotFoundError):
    """The checkpoint exists, but this user may not read it."""


class NetworkError(NotFoundError):
    """The hub can't be reached, or went on failing after every retry."""


class InvalidCheckpointError(MlloadError):
    """A file is not what it claims to be. Names the file, and the tensor where one is at fault."""

    exit_code = 4

    def __init__(self, message: str, *, file: str, tensor: str | None = None, hint: str | None = None) -> None:
        where = printable(file, limit=200) if tensor is None else f"{printable(file, limit=200)}: tensor {printable(tensor, limit=120)}"
        super().__init__(f"{where}: {message}", hint=hint)
        self.file = file
        self.tensor = tensor


class DoesNotFitError(MlloadError):
    """It does not fit in memory, or the hardware asked for is not there."""

    exit_code = 5


class MissingDependencyError(MlloadError):
    """An optional package is not installed; the message names the extra that brings it."""

    exit_code = 6


class ThresholdExceededError(MlloadError):
    """A check that the user asked for failed (`inspect --strict`, `bench-load --compare`)."""

    exit_code = 7
