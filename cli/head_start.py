"""A head start: what `inspect MODEL` asks a hub first is on its way before Typer is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..loader.errors import MlloadError

if TYPE_CHECKING:
    from ..loader.checkpoint import Checkpoint

# Options beside which `inspect MODEL` means this checkpoint, and no other one or other file.
FLAGS = frozenset({"--debug", "--json", "--layers", "--strict", "--tensors"})


class HeadStart:
    """A checkpoint that is being read before the command asks for it."""

    def __init__(self, model: str, opened: Callable[[], Checkpoint]) -> None:
        self._model = model
        self._opened = opened

    def take(self, model: str, file: str | None) -> Callable[[], Checkpoint] | None:
        """What waits for the checkpoint, if it is the one that is asked for."""
        return self._opened if (model, file) == (self._model, None) else None


def begin(arguments: Sequence[str]) -> HeadStart | None:
    """Begin to read the model that `arguments` name, if they can mean nothing but `inspect` of it.

    All else is left to Typer, and every error to the command.
    """
    match arguments:
        case ["inspect", model, *flags] if not model.startswith("-") and FLAGS.issuperset(flags):
            from ..loader.checkpoint import Checkpoint

            try:
                return HeadStart(model, Checkpoint.begin(model))
            except MlloadError:
                return None
    return None
