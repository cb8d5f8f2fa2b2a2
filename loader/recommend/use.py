"""What a loaded model is used for: how many tokens at once, and how attention is computed."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
_MOST = 1 << 24


@dataclass(frozen=True, slots=True)
class Use:
    """A forward over `batch` sequences of `context` tokens, which fills the cache; tokens that follow take less.

    `cache_bits`: of keys and values in a cache that transformers quantizes (`cache_implementation="quantized"`); None for the model's
    dtype.
    """

    context: int = 2048
    batch: int = 1
    attention: str = "sdpa"
    cache_bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("context", "batch"):
            if not 0 < getattr(self, name) <= _MOST:
                raise UsageError(f"{name} is 1 to {_MOST:,}, not {getattr(self, name):,}")
        if self.attention not in ATTENTIONS:
            raise UsageError(f"what attention '{self.attention}' takes is not known", hint=f"known: {', '.join(ATTENTIONS)}")
        if self.cache_bits not in (None, 2, 4, 8):
            raise UsageError(f"a cache is quantized to 2, 4 or 8 bits, not {self.cache_bits}")

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return self.context * self.batch
