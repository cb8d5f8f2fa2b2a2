"""Weights that a module holds without having them: what it finds in its parameters and buffers is read when it looks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, ItemsView, ValuesView
from functools import partial
from typing import Any, Never

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..plan import Step
from .residency import Residency, StreamedUnit


class Weight:
    """One tensor of the model that is in memory only now and then. Tied names share one of these."""

    def __init__(self, name: str, step: Step | None, unit: StreamedUnit, residency: Residency, *, is_tied: bool) -> None:
        """`step` is what makes it without its unit; None for one that comes with its unit only."""
        self._name = name
        # Whoever asks under the other name of a tie must get the same tensor; and a unit of one tensor costs no more than the tensor.
        self._step = None if is_tied or unit.made.steps == (step,) else step
        self._unit = unit
        self._residency = residency
        self._lent: Callable[[], Tensor | None] = lambda: None
        self._converted: Tensor | None = None

    def use(self) -> Tensor:
        """The tensor, for the model to compute with: its unit is brought in, and what comes after it."""
        if self._converted is not None:
            return self._converted
        return _folding(self._residency.use(self._unit)[self._name])

    def look(self) -> Tensor:
        """The tensor, for someone who goes over all of them: without its unit where that is not there, and kept nowhere."""
        return self._found().requires_grad_(False)

    def _found(self) -> Tensor:
        if self._converted is not None:
            return self._converted
        values = self._unit.mapped if self._name in self._unit.mapped else self._residency.resident(self._unit)
        if values is None and self._step is not None:
            return self._borrow(self._step)
        return (values or self._residency.hold(self._unit))[self._name]

    def _borrow(self, step: Step) -> Tensor:
        """The tensor alone, for as long as somebody holds it."""
        lent = self._lent()
        if lent is None:
            lent = self._residency.make_alone(self._unit, step)[self._name]
            self._lent = weakref.ref(lent)
        return lent

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply `function`, as `Module.to` does; where that changes dtype or device, the result stays in memory from now on."""
        kept = self.look()
        with torch.no_grad():
            changed = function(kept)
        if (changed.dtype, changed.device) != (kept.dtype, kept.device):
            self._converted = nn.Parameter(changed, requires_grad=False) if isinstance(kept, nn.Parameter) else changed


class OnDemand(dict[str, Any]):
    """A module's parameters or buffers, some of them `Weight`s, which nobody outside gets to see.

    Looking one up uses it; going over all of them (`parameters()`, `state_dict()`, `device`) only looks at them.
    """

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return value.use() if isinstance(value, Weight) else value

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key` if there is one."""
        return self[key] if key in self else default  # noqa: SIM401 - this is what it would call

    def pop(self, key: str, *default: Any) -> Any:
        """Take `key` out."""
        value = self.get(key, *default)
        super().pop(key, *default)
        return value

    def copy(self) -> dict[str, Any]:
        """An ordinary dict of all tensors."""
        return {key: value.look() if isinstance(value, Weight) else value for key, value in super().items()}

    def items(self) -> ItemsView[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # a view of the copy
        """Keys and tensors."""
        return self.copy().items()

    def values(self) -> ValuesView[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # a view of the copy
        """Tensors."""
        return self.copy().values()

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply `function` to all weights that are read on demand."""
        for value in super().values():
            if isinstance(value, Weight):
                value.convert(function)

    def __iter__(self) -> Any:  # that it is defined makes dict(self) and **self ask `__getitem__`
        return super().__iter__()

    def __reduce_ex__(self, _: object) -> Never:
        raise UsageError("a streamed model can't be copied or pickled", hint="stream the checkpoint a second time, or load it whole")


def _folding(tensor: Tensor) -> Tensor:
    """The tensor, asking for a gradient exactly where none is recorded anyway.

    torch multiplies a matrix that asks for none by what is not contiguous (the last token's state, where only its logits are kept) as
    a batch of matrices, for which it copies the whole matrix; the model loaded whole does not.
    """
    if tensor.requires_grad is torch.is_grad_enabled() and tensor.is_floating_point() and not tensor.is_inference():
        tensor.requires_grad_(not tensor.requires_grad)
    return tensor


def hold_on_demand(module: nn.Module, key: str, weight: Weight) -> None:
    """Let `module` find `weight` under `key` in place of the parameter or buffer that stands there."""
    name = "_parameters" if key in module._parameters else "_buffers"
    held = getattr(module, name)
    if not isinstance(held, OnDemand):
        held = OnDemand(held)
        setattr(module, name, held)
    held[key] = weight
    module._apply = partial(_apply, module)  # pyright: ignore[reportAttributeAccessIssue]  # as torch calls it


def _apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """In place of `Module._apply`: some models convert a module of theirs (a router to float32) in the middle of a forward."""
    for held in (module._parameters, module._buffers):
        if isinstance(held, OnDemand):
            held.convert(function)
    return type(module)._apply(module, function, recurse)


def refuse_conversion(model: nn.Module, like: Collection[Tensor]) -> None:
    """Make `to`, `half` and their kin an error for a whole model, unless they would change nothing in tensors as those of `like`."""

    def apply_nothing(function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for tensor in like:
            changed = function(tensor)
            if (changed.dtype, changed.device) != (tensor.dtype, tensor.device):
                message = f"a streamed model stays {tensor.dtype} on {tensor.device}".replace("torch.", "")
                raise UsageError(message, hint="stream it anew with what you want")
        return model

    model._apply = apply_nothing  # pyright: ignore[reportAttributeAccessIssue]  # as torch calls it
