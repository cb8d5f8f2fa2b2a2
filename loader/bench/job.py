"""One run as the process that carries it out is told of it: a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .case import Case


@dataclass(frozen=True, slots=True)
class Job:
    """A case, the folder of its checkpoint, and what to do with the model.

    `resident`: bytes of weights that streaming may keep in memory. `cache`: of quantized weights, on, off or only. `prompt`: what to go
    on from with `max_new_tokens`; None for one forward over `batch` sequences of `context` tokens. `settings`: what our own engine is asked
    for in place of the case, as plain values.
    """

    case: Case
    folder: str
    files: tuple[str, ...]
    resident: int | None = None
    cache: str = "off"
    prompt: str | None = None
    max_new_tokens: int = 16
    context: int = 1
    batch: int = 1
    settings: Mapping[str, object] | None = None

    def to_text(self) -> str:
        """The line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Job:
        """From the line."""
        values = json.loads(text)
        return cls(**values | {"case": Case(**values["case"]), "files": tuple(values["files"])})
