"""The plan for mlx-lm's model of a checkpoint, and carrying it out: its lazy arrays are evaluated, some at once, unit by unit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from ..plan import LoadPlan, Step, Target, Unit, UnitNames
from ..tensors import TensorEntry
from .mlx_skeleton import MlxSkeleton, parameters, torch_dtype
from .model_class import refusals
from .weight_files import TORCH_DTYPES

_STACK = re.compile(r"(.+?)\.\d+\.")  # mlx-lm keeps layers in lists, so that only their numbers tell of them


@dataclass(frozen=True)
class MlxStep(Step):
    """A step that MLX carries out: by `operations` of mlx-lm's class where the target is not a stored tensor itself."""

    operations: tuple[str, ...] = ()

    @property
    def summary(self) -> str | None:
        """The operations."""
        return ", ".join(self.operations) or None

    @property
    def is_view(self) -> bool:
        """Whether it is read and nothing else."""
        return not self.quantized and not self._is_changed

    @property
    def is_copy(self) -> bool:
        """Never into memory that waits for it: MLX allocates what it makes."""
        return False

    @property
    def transient_bytes(self) -> int:
        """What is read stays in memory until its result is there, and so does what is cast and then quantized."""
        unquantized = sum(target.nbytes for target in self.targets) if self.quantized and self._is_changed else 0
        return self.source_bytes + unquantized if self.quantized or self._is_changed else 0

    @property
    def _is_changed(self) -> bool:
        return bool(self.operations) or not self.sources or TORCH_DTYPES.get(self.sources[0][0].dtype) != self.targets[0].dtype


def make_mlx_plan(tensors: Mapping[str, TensorEntry], skeleton: MlxSkeleton, arrays: Mapping[str, mx.array]) -> LoadPlan:
    """The plan by which the checkpoint's tensors become `arrays`: those of `skeleton` as stored, or cast and quantized in the model."""
    names = [name for name in skeleton.shapes if name in skeleton.made]
    shapes = {name: tuple(skeleton.made[name].shape) for name in names}
    used = {source for name in names for source in skeleton.origins[name].sources}
    unit_of = UnitNames({found[1] for name in skeleton.shapes if (found := _STACK.match(name))})
    units: dict[str, list[Step]] = {}
    for name in names:
        units.setdefault(unit_of(name), []).append(_step(name, unit_of(name), tensors, skeleton, arrays))
    return LoadPlan(
        units=tuple(Unit(unit, tuple(steps)) for unit, steps in units.items()),
        missing=tuple(name for name in skeleton.shapes if name not in skeleton.made),
        unexpected=tuple(sorted(name for name in tensors if name not in used)),
        mismatched=tuple((name, shape, skeleton.shapes[name]) for name, shape in shapes.items() if shape != skeleton.shapes[name]),
        ties={},
    )


def _step(name: str, unit: str, tensors: Mapping[str, TensorEntry], skeleton: MlxSkeleton, arrays: Mapping[str, mx.array]) -> MlxStep:
    origin, parts = skeleton.origins[name], _parts(name, arrays)
    is_quantized = len(parts) > 1 and parts[1] not in skeleton.shapes
    # Of a quantized weight the scales have the dtype that it was cast to.
    target = Target(name, tuple(skeleton.made[name].shape), torch_dtype(arrays[parts[1] if is_quantized else name]))
    return MlxStep(
        unit,
        sources=tuple((tensors[source], name) for source in origin.sources),
        targets=(target,),
        conversion=None,
        quantized_bytes=sum(arrays[part].nbytes for part in parts) if is_quantized else None,
        operations=origin.operations,
    )


def _parts(name: str, arrays: Mapping[str, mx.array]) -> list[str]:
    """The arrays that a weight consists of: one, or packed numbers with their scales and biases."""
    path, _, last = name.rpartition(".")
    if last != "weight":
        return [name]
    return [part for part in (name, f"{path}.scales", f"{path}.biases") if part in arrays]


def fill(model: nn.Module, plan: LoadPlan, *, workers: int = 1, progress: Callable[[Unit], None] | None = None) -> None:
    """Evaluate the model's arrays, `workers` steps of a unit at once. Raises InvalidCheckpointError where a file can't be read any more."""
    arrays = parameters(model)
    for unit in plan.units:
        for start in range(0, len(unit.steps), workers):
            steps = unit.steps[start : start + workers]
            with refusals("weights", library="MLX", file=_file(steps), hint="download it again"):
                mx.eval([arrays[part] for step in steps for target in step.targets for part in _parts(target.name, arrays)])
        mx.clear_cache()
        if progress is not None:
            progress(unit)
    mx.eval(model.parameters())  # what the checkpoint lacks


def _file(steps: Iterable[Step]) -> str:
    return next((entry.file for step in steps for entry, _ in step.sources), "its files")
