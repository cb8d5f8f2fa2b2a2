"""The stacks of a model: which modules are its layers, by name and by what they work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from ..loader.architecture.structure import Stack, Structure
from ..loader.errors import UsageError
from ..loader.plan import LoadPlan, stack_names
from ..loader.text import did_you_mean, printable


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The layers of one stack in their order; lists in a list (Funnel's blocks) are one after the other."""

    name: str
    layers: tuple[nn.Module, ...]


def find_stacks(model: nn.Module) -> dict[str, LayerStack]:
    """All stacks of the model by the names of their modules."""
    return {name: LayerStack(name, tuple(_flat(model.get_submodule(name)))) for name in stack_names(model)}


def _flat(modules: nn.Module) -> Iterator[nn.Module]:
    for module in modules.children():
        if isinstance(module, nn.ModuleList):
            yield from _flat(module)
        else:
            yield module


def choose_stack(asked: str | None, stacks: Mapping[str, LayerStack], structure: Structure, plan: LoadPlan) -> LayerStack:
    """The stack that is asked for: by its module's name or its name in the checkpoint, as `encoder`, `decoder`, `vision` or `audio`.

    None stands for the main one. Raises UsageError where the model has no such stack.
    """
    if asked is not None and asked in stacks:
        return stacks[asked]
    found = _stored_stack(asked, structure)
    name = None if found is None else _module_of(found, stacks, plan)
    if name is None:
        known = ", ".join(printable(name) for name in stacks) or "none"
        wanted = "stack of text layers" if asked is None else f"stack '{printable(asked, limit=80)}'"
        raise UsageError(f"the model has no {wanted}", hint=did_you_mean(asked or "", stacks) or f"its stacks: {known}")
    return stacks[name]


def _stored_stack(asked: str | None, structure: Structure) -> Stack | None:
    if asked is None:
        return structure.main
    if asked in ("encoder", "decoder"):
        return structure.stack(role=asked)
    if asked in ("vision", "audio"):
        return structure.stack(modality=asked)
    return next((stack for stack in structure.stacks if stack.prefix == asked), None)


def _module_of(stored: Stack, stacks: Mapping[str, LayerStack], plan: LoadPlan) -> str | None:
    """The stack of modules that the stored one's tensors go to."""
    entries = {entry.name for layer in stored.layers.values() for entry in layer.values()}
    for step in plan.steps:
        if any(entry.name in entries for entry, _ in step.sources):
            for name in stacks:
                if step.targets[0].name.startswith(f"{name}."):
                    return name
    return None
