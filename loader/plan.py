"""What loading will do, tensor by tensor: known from headers and a model without weights, before a byte of weights is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from .tensors import TensorEntry

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module

    from .execution.skeleton import Route, Skeleton


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of the model: its name in the state dict, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count


class Converting(Protocol):
    """What makes tensors of the model out of the checkpoint's: `execution.skeleton.Conversion`, or a reader of whole files."""

    @property
    def summary(self) -> str:
        """What a person reads of it."""
        ...

    @property
    def patterns(self) -> list[str]:
        """What it matches in checkpoint names, in the order in which it puts them together."""
        ...

    @property
    def stacks_only(self) -> bool:
        """Whether it puts tensors side by side and does nothing else."""
        ...

    @property
    def keeps_stored_dtype(self) -> bool:
        """Whether it wants its sources in the dtype that they are stored in."""
        ...

    def run(self, sources: Iterable[tuple[str, str, Callable[[], Tensor]]]) -> dict[str, Tensor]:
        """The model's tensors by name, of checkpoint names, the patterns they matched, and what reads them."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """The smallest thing that is done at once: some checkpoint tensors in, some of the model's out.

    `sources` are checkpoint tensors, each with the pattern of the conversion that it matched. Without a `conversion` there is one
    source, and it is the target but for its dtype.
    """

    unit: str
    sources: tuple[tuple[TensorEntry, str], ...]
    targets: tuple[Target, ...]
    conversion: Converting | None
    quantized_bytes: int | None = None  # of what is left of the targets, where they are quantized
    quantizing_bytes: int = 0  # that quantizing takes beside the targets and what is left of them

    @property
    def quantized(self) -> bool:
        """Whether the targets are quantized once they are read."""
        return self.quantized_bytes is not None

    @property
    def summary(self) -> str | None:
        """What a person reads of it, where it is more than reading, casting and quantizing."""
        return None if self.conversion is None else self.conversion.summary

    @property
    def sources_by_pattern(self) -> list[list[TensorEntry]]:
        """The sources that each pattern of the conversion matched, patterns in the conversion's order."""
        patterns = self.conversion.patterns if self.conversion else ()
        groups = ([entry for entry, matched in self.sources if matched == pattern] for pattern in patterns)
        return [group for group in groups if group]

    @property
    def is_a_stack(self) -> bool:
        """Whether the sources are equal tensors (experts) that just lie side by side in the target."""
        if self.conversion is None or not self.conversion.stacks_only:
            return False
        groups, target = self.sources_by_pattern, self.targets[0]
        alike = all(len({entry.shape for entry in group}) == 1 and len(group) == target.shape[0] for group in groups)
        rows = sum(group[0].shape[0] for group in groups)
        return alike and all(group[0].shape[1:] == target.shape[2:] for group in groups) and rows == target.shape[1]

    @property
    def source_bytes(self) -> int:
        """Bytes that are read."""
        return sum(entry.nbytes for entry, _ in self.sources)

    @property
    def passing_bytes(self) -> int:
        """Bytes that are read as pages of the file and given back: none of what stays, or is read to its place piece by piece."""
        return 0 if self.is_view or (self.is_a_stack and not self.quantized) else self.source_bytes

    @property
    def is_view(self) -> bool:
        """Whether the file's own bytes can be the model's tensor."""
        from .execution.weight_files import TORCH_DTYPES

        entry = self.sources[0][0]
        changed = self.conversion is not None or self.quantized or not entry.is_one_piece
        return not changed and TORCH_DTYPES.get(entry.dtype) == self.targets[0].dtype

    @property
    def is_copy(self) -> bool:
        """Whether its tensor is the stored one in another dtype, or stored ones side by side, in memory of its own."""
        return not self.quantized and not self.is_view and (self.conversion is None or self.is_a_stack)

    @property
    def transient_bytes(self) -> int:
        """Bytes in memory while the step is carried out, beside what it reads as mapped pages and what it leaves."""
        made = 0 if self.is_view or self.is_copy else sum(target.nbytes for target in self.targets)
        return max(made, self.quantizing_bytes) if self.conversion is None else made + self.quantizing_bytes

    @property
    def target_bytes(self) -> int:
        """Bytes of the model's tensors that come out."""
        return sum(target.nbytes for target in self.targets) if self.quantized_bytes is None else self.quantized_bytes


@dataclass(frozen=True, slots=True)
class Unit:
    """What a person would name: the embedding, one layer, the final norm, the head; with the steps that fill it."""

    name: str
    steps: tuple[Step, ...]

    @property
    def is_quantized(self) -> bool:
        """Whether some of its tensors are quantized once they are read."""
        return any(step.quantized for step in self.steps)

    @property
    def source_bytes(self) -> int:
        """Bytes that are read."""
        return sum(step.source_bytes for step in self.steps)

    @property
    def target_bytes(self) -> int:
        """Bytes of the model's tensors."""
        return sum(step.target_bytes for step in self.steps)


@dataclass(frozen=True)
class LoadPlan:
    """How a checkpoint fills a model: units in the model's order, and what does not match.

    `missing`: tensors that the model needs and the checkpoint lacks. `unexpected`: tensors of the checkpoint that the model has no place
    for. `mismatched`: tensors whose stored shape is not the model's, with both. `ties`: names that are another tensor a second time.
    """

    units: tuple[Unit, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    ties: Mapping[str, str]

    @property
    def steps(self) -> Iterator[Step]:
        """All steps, in the order of units."""
        return (step for unit in self.units for step in unit.steps)

    @cached_property
    def source_bytes(self) -> int:
        """Bytes of weights that are read."""
        return sum(unit.source_bytes for unit in self.units)

    @cached_property
    def target_bytes(self) -> int:
        """Bytes of the model's weights once loaded, each tied tensor once."""
        return sum(unit.target_bytes for unit in self.units)


def make_plan(tensors: Mapping[str, TensorEntry], skeleton: Skeleton) -> LoadPlan:
    """The plan for filling `skeleton` from a checkpoint's `tensors`."""
    from .execution.skeleton import in_loading_order

    grouped: dict[str, tuple[Route, list[tuple[TensorEntry, str]]]] = {}
    unexpected: list[str] = []
    for name in in_loading_order(tensors):
        route = skeleton.route(name)
        if route is None:
            unexpected.append(name)
        elif route.pattern is not None or route.target not in grouped:  # the first of two names for one tensor counts
            grouped.setdefault(route.target, (route, []))[1].append((tensors[name], route.pattern or name))
    unit_of = UnitNames(stack_names(skeleton.model))
    steps = [_step(skeleton, route, sources, unit_of) for route, sources in grouped.values()]
    filled = {target.name for step in steps for target in step.targets}
    missing = [name for name in skeleton.targets if name not in filled]
    return LoadPlan(
        units=_units(steps, skeleton),
        missing=tuple(missing),
        unexpected=tuple(sorted(skeleton.without_ignored(unexpected))),
        mismatched=tuple(_mismatched(steps)),
        ties={name: partner for name, partner in skeleton.ties.items() if name in missing or partner in missing},
    )


def _step(skeleton: Skeleton, route: Route, sources: list[tuple[TensorEntry, str]], unit_of: UnitNames) -> Step:
    conversion = None if route.pattern is None else skeleton.conversion(route)
    targets = tuple(_target(name, skeleton.targets[name], skeleton) for name in skeleton.targets_of(route))
    quantized = [target for target in targets if skeleton.is_quantized_on_load(target.name)]
    return Step(
        unit_of(route.target),
        tuple(sources),
        targets,
        conversion,
        quantized_bytes=_quantized_bytes(skeleton, targets, quantized) if quantized else None,
        quantizing_bytes=sum(skeleton.quantizing_bytes(target.name) for target in quantized),
    )


def _quantized_bytes(skeleton: Skeleton, targets: tuple[Target, ...], quantized: list[Target]) -> int:
    """What the targets will take of which some are quantized."""
    left = sum(target.nbytes for target in targets if target not in quantized)
    return left + sum(skeleton.quantized_bytes(target.name) for target in quantized)


def _target(name: str, meta: Tensor, skeleton: Skeleton) -> Target:
    return Target(name, tuple(meta.shape), skeleton.dtype_of(name))


def _mismatched(steps: list[Step]) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    for step in steps:
        if step.conversion is None and step.sources[0][0].shape != step.targets[0].shape:
            yield step.targets[0].name, step.sources[0][0].shape, step.targets[0].shape


def _units(steps: list[Step], skeleton: Skeleton) -> tuple[Unit, ...]:
    """Steps gathered by unit, units in the order in which the model's state dict names them."""
    place = {name: index for index, name in enumerate(skeleton.targets)}
    gathered: dict[str, list[Step]] = {}
    for step in sorted(steps, key=lambda step: place[step.targets[0].name]):
        gathered.setdefault(step.unit, []).append(step)
    return tuple(Unit(name, tuple(members)) for name, members in gathered.items())


class UnitNames:
    """The unit of each tensor: the layer of one of `stacks` that it lies in, else the largest module around it that holds no stack."""

    def __init__(self, stacks: Iterable[str]) -> None:
        self._stacks = set(stacks)
        self._above = {name.rsplit(".", depth)[0] for name in self._stacks for depth in range(1, name.count(".") + 1)} | {""}

    def __call__(self, target: str) -> str:
        """The name of the unit that `target` belongs to."""
        parts = target.split(".")
        for depth in range(1, len(parts)):
            name = ".".join(parts[:depth])
            if name in self._stacks:
                return ".".join(parts[: depth + 1])
            if name not in self._above:
                return name
        return target


def stack_names(model: Module) -> list[str]:
    """The outermost lists of modules whose members all have parameters: the model's stacks of layers."""
    from torch.nn import ModuleList

    found: list[str] = []
    for name, module in model.named_modules():
        inner = any(name.startswith(f"{stack}.") for stack in found)
        if isinstance(module, ModuleList) and len(module) and not inner and all(any(True for _ in layer.parameters()) for layer in module):
            found.append(name)
    return found
