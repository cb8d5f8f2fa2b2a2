"""One case of the hostile corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["good", "broken", "hostile"]
Writer = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """Files, and what `mlload inspect` owes to whoever asks for them.

    `words`: for exit code 0 with --json the codes of all problems, otherwise what must stand in the answer; for any other
    code what must stand in the error line, for code 4 the file at fault first. `reference` is what is asked for, `{}` being the folder.
    """

    kind: Kind
    name: str
    write: Writer
    code: int = 0
    words: tuple[str, ...] = ()
    args: tuple[str, ...] = ("--json",)
    reference: str = "{}"
