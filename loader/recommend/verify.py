"""A recommendation tried: loaded in a process of its own, used as it was planned for, and its memory watched from outside."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..bench.case import Case
from ..bench.job import Job
from ..bench.run import run
from ..errors import UsageError
from ..settings import Backend, CacheMode
from ..settings_mapping import plain_settings
from .candidates import Candidate
from .component import ANONYMOUS, MAPPED
from .frameworks import known_frameworks
from .recommendation import Recommendation


@dataclass(frozen=True, slots=True)
class Verified:
    """Bytes by place, predicted and measured; `host`: the most of both kinds at once, by the kernel's own mark."""

    predicted: dict[str, int]
    measured: dict[str, int]
    seconds: float

    @property
    def error(self) -> float:
        """Of the prediction of all together, relative to what was measured; below 0 where it was too low."""
        return self.predicted["host"] / self.measured["host"] - 1

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {"predicted": self.predicted, "measured": self.measured, "error": round(self.error, 4), "seconds": round(self.seconds, 3)}


def verify(recommendation: Recommendation, candidate: Candidate | None = None) -> Verified:
    """Load the model as is recommended and run one forward over context and batch. Raises what loading raises, as RunFailedError.

    Quantized weights are made anew: those that are kept on disk would be mapped instead. Raises UsageError for a device that is only
    described.
    """
    chosen = candidate or recommendation.best
    settings = recommendation.settings(chosen)
    assert chosen is not None  # or else there are no settings
    check_is_here(recommendation, chosen)
    asked = plain_settings(replace(settings, quantized_cache=CacheMode.OFF))
    use, taken = recommendation.use, chosen.footprint
    job = Job(Case("mlload"), recommendation.reference, (), context=use.context, batch=use.batch, settings=asked)
    done = run(job)
    devices = sum(nbytes for place, nbytes in taken.peak.items() if place not in (ANONYMOUS, MAPPED))
    predicted = {ANONYMOUS: taken.peak.get(ANONYMOUS, 0), MAPPED: taken.peak.get(MAPPED, 0), "host": taken.host}
    measured = {ANONYMOUS: done.peak.anonymous, MAPPED: done.peak.mapped, "host": done.resident}
    if devices:  # without what CUDA takes itself, which torch does not count
        own = known_frameworks().bytes_of("cuda").device * len(chosen.way.devices) if chosen.way.backend is Backend.CUDA else 0
        predicted["device"], measured["device"] = devices - own, done.peak.device
    return Verified(predicted, measured, done.seconds)


def check_is_here(recommendation: Recommendation, candidate: Candidate) -> None:
    """Raises UsageError for a candidate on a device that is only described."""
    if recommendation.machine.is_declared and candidate.way.on_device:
        raise UsageError(f"{candidate.way.devices[0]} is described, and can't be loaded to", hint="verify on that machine")
