"""What is wrong or odd in a checkpoint that can still be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. An `error` would make loading fail or give a wrong model; a `warning` is worth knowing."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    file: str | None = None
    tensor: str | None = None
