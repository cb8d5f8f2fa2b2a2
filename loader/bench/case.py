"""What is measured: one row of the table."""

from __future__ import annotations

from dataclasses import dataclass

NOT_QUANTIZED = "none"


@dataclass(frozen=True, slots=True)
class Case:
    """One row: an engine and how it loads. None (of workers: -1) leaves a choice to the engine."""

    engine: str
    strategy: str | None = None
    quantize: str = NOT_QUANTIZED
    device: str | None = None
    dtype: str = "auto"
    workers: int = -1
    page_cache: str = "warm"

    @property
    def label(self) -> str:
        """The engine, and whatever is not as it is by default."""
        parts = (
            self.engine,
            self.strategy,
            None if self.quantize == NOT_QUANTIZED else self.quantize,
            self.device,
            None if self.dtype == "auto" else self.dtype,
            None if self.workers < 1 else f"{self.workers} workers",
            None if self.page_cache == "warm" else self.page_cache,
        )
        return " ".join(part for part in parts if part)
