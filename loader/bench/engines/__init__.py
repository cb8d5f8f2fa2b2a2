"""The engines that are measured: each module loads a model in its own way, and tells how long each phase took.

A new engine is one module with `load(job, phases)`, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..job import Job
    from ..phases import Phases

    Load = Callable[[Job, Phases], PreTrainedModel | None]


@dataclass(frozen=True, slots=True)
class Engine:
    """Something that loads models: where its program is (`module:attribute`), the packages it needs and the extra that brings them.

    `has_strategies`, `has_workers`, `quantizes`: which options mean something to it.
    """

    name: str
    summary: str
    program: str
    packages: tuple[str, ...] = ()
    extra: str = "bench"
    has_strategies: bool = False
    has_workers: bool = False
    quantizes: bool = False

    def missing_package(self) -> str | None:
        """The first of its packages that is not installed."""
        return next((package for package in self.packages if find_spec(package) is None), None)

    def load(self, job: Job, phases: Phases) -> PreTrainedModel | None:
        """The model of `job`, loaded in this process; None where there is nothing to ask of it."""
        module, attribute = self.program.split(":")
        return cast("Load", getattr(import_module(module, __package__), attribute))(job, phases)


ENGINES: Mapping[str, Engine] = {
    line.name: line
    for line in (
        Engine("mlload", "this package", ".mlload:load", has_strategies=True, has_workers=True, quantizes=True),
        Engine("transformers", "from_pretrained of the model's class", ".transformers:load", quantizes=True),
        Engine("accelerate", "load_checkpoint_and_dispatch into an empty model", ".accelerate:load", ("accelerate",)),
        Engine("safetensors", "load_file, then transformers' model around the tensors", ".safetensors:load"),
        Engine(
            "runai",
            "run:ai's streamer, then transformers' model around the tensors",
            ".runai:load",
            ("runai_model_streamer", "humanize"),
            has_workers=True,
        ),
        Engine(
            "fastsafetensors",
            "its file loader, then transformers' model around the tensors",
            ".fastsafetensors:load",
            ("fastsafetensors",),
            has_workers=True,
        ),
    )
}
CALIBRATION = Engine("calibration", "fixed work", ".calibration:load")


def engine_of(name: str) -> Engine:
    """The engine of that name, which must be known."""
    return CALIBRATION if name == CALIBRATION.name else ENGINES[name]
