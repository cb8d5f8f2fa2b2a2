"""What a user asks of probing a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...loader.errors import UsageError

_TOKENS = {"float32": 1_024, "bfloat16": 1_536, "float16": 1_536}  # at once on a CPU: what its caches like best
_TOKENS_ON_DEVICE = 16_384


@dataclass(frozen=True)
class ProbeSettings:
    """What is recorded, and how it is cut.

    `layers`: `0,6,12`, `-1`, `0:13:2` or numbers; None for all. `stack`: encoder, decoder or both, of a seq2seq model. `pool`: none,
    mean, cls, last, max, or auto for what the model's makers do. `tokens`: `words`, `word:bank`, `3:9` or `span`; None for all.
    `max_length`: tokens of a text. `batch_tokens`: at once, padding counted. `texts_per_shard`: also what is lost at most when the job
    is killed.
    """

    layers: str | Iterable[int] | None = None
    stack: str | None = None
    pool: str = "auto"
    tokens: str | None = None
    max_length: int | None = None
    batch_tokens: int | None = None
    attentions: bool = False
    cross_attentions: bool = False
    texts_per_shard: int = 1_024

    def __post_init__(self) -> None:
        """Raises UsageError for a number that is none."""
        for name in ("max_length", "batch_tokens", "texts_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', ' ')} is {value}", hint="it is 1 or more")

    @property
    def wants_maps(self) -> bool:
        """Whether attention maps are kept."""
        return self.attentions or self.cross_attentions


def default_batch_tokens(dtype: str, device: str) -> int:
    """How many tokens are computed at once where nobody says."""
    return _TOKENS.get(dtype, 1_024) if device == "cpu" else _TOKENS_ON_DEVICE
