"""The grid of rows that lists of options ask for, and what an engine can't do of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ..errors import MissingDependencyError, MlloadError, UsageError
from ..loading import DTYPES
from ..settings import LoadingStrategy, QuantizationMethod, choice
from ..text import did_you_mean
from .case import NOT_QUANTIZED, Case
from .engines import ENGINES

PAGE_CACHES = ("warm", "cold")


@dataclass(frozen=True, slots=True)
class BenchGrid:
    """Lists of what to try; every combination is a case, but for what an engine knows nothing of."""

    engines: Sequence[str] = ("mlload",)
    strategies: Sequence[str | None] = (None,)
    quantize: Sequence[str] = (NOT_QUANTIZED,)
    devices: Sequence[str | None] = (None,)
    dtypes: Sequence[str] = ("auto",)
    workers: Sequence[int] = (-1,)
    page_caches: Sequence[str] = ("warm",)

    def cases(self) -> tuple[Case, ...]:
        """The cases, engines side by side. Raises UsageError for a name that is unknown."""
        self._check()
        others = product(self.page_caches, self.devices, self.dtypes, self.quantize, self.strategies, self.workers, self.engines)
        made = (
            Case(
                engine=engine,
                strategy=strategy and strategy.replace("-", "_") if ENGINES[engine].has_strategies else None,
                quantize=quantize,
                device=device,
                dtype=dtype,
                workers=workers if ENGINES[engine].has_workers else -1,
                page_cache=page_cache,
            )
            for page_cache, device, dtype, quantize, strategy, workers, engine in others
        )
        return tuple(dict.fromkeys(made))

    def _check(self) -> None:
        _known("engine", self.engines, list(ENGINES))
        _known("dtype", self.dtypes, DTYPES)
        _known("page cache", self.page_caches, PAGE_CACHES)
        for method in self.quantize:
            if method != NOT_QUANTIZED:
                choice(QuantizationMethod, method)
        for strategy in self.strategies:
            if strategy is not None:
                choice(LoadingStrategy, strategy.replace("-", "_"))


def _known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {what} '{name}'", hint=did_you_mean(name, known) or f"known: {', '.join(known)}")


def refusal(case: Case) -> MlloadError | None:
    """Why its engine can't do this; None where it can."""
    engine = ENGINES[case.engine]
    if case.quantize != NOT_QUANTIZED and not engine.quantizes:
        return UsageError(f"{case.engine} does not quantize while loading")
    missing = engine.missing_package()
    if missing is not None:
        return MissingDependencyError(f"{missing} is not installed", hint=f'pip install "mlload[{engine.extra}]"')
    return None
