"""What a run of part of a model is asked for, and what can be known to be wrong with that before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..loader.errors import UsageError


@dataclass(frozen=True)
class PartialRequest:
    """What is to be run, and what is to be told of it. `layers` None: all, or none where `head` is all that is asked for."""

    texts: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    input: Path | None = None
    layers: str | None = None
    embedding_only: bool = False
    stack: str | None = None
    head: bool = False
    output: Path | None = None
    cache: bool = False
    topk: int = 5
    save_hidden: Path | None = None
    lens: bool = False
    plot: Path | None = None
    skip: tuple[int, ...] = ()
    repeat: tuple[int, ...] = ()
    generate: int | None = None

    def check(self) -> None:
        """Raises UsageError for wishes that go against one another."""
        if [bool(self.texts), bool(self.ids), self.input is not None].count(True) != 1:
            raise UsageError("there must be one thing to begin with: --text, --ids or --input", hint='for example --text "A shard is"')
        if self.embedding_only and (self.layers is not None or self.head):
            raise UsageError("--embedding-only stops before the first layer", hint="leave --layers and --head out")
        partly = self.input is not None or self.layers is not None or self.embedding_only or self.head or self.stack is not None
        asked = self.output, self.cache, self.save_hidden, self.skip, self.repeat, self.lens
        if self.generate is not None and (partly or any(asked)):
            raise UsageError("--generate runs the whole model as it is", hint="leave the other options out")
        is_open = not self.embedding_only and (self.layers is None or self.layers.strip().endswith(":"))
        if self.output is not None and is_open and not self.lens and self.stack is None:
            raise UsageError("--output writes the state after the last of some layers", hint="say where they end, as in --layers 0:8")
        if self.cache and self.output is None:
            raise UsageError("--with-cache keeps keys and values in the state that --output writes", hint="--layers 0:8 --output FILE")
        if self.cache and self.input is not None:
            raise UsageError("a state goes on with the cache that it holds, if it holds one", hint="ask for it where the forward begins")
        if self.lens and (not is_open or self.stack is not None):
            raise UsageError("--logit-lens looks at the layers up to the last one", hint="leave --stack and the end of --layers out")
