"""Weights that a module holds without having them: what it finds in its parameters and buffers is read when it looks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, ItemsView, ValuesView
from functools import partial
from typing import Any, Never

from torch import Tensor, nn

from ..errors import UsageError
from ..plan import Step
from .residency import Residency, StreamedUnit


class Weight:
    """One tensor of the model that is in memory only now and then. Tied names share one of these."""

    def __init__(self, name: str, step: Step, unit: StreamedUnit, residency: Residency, *, is_tied: bool) -> None:
        self._name = name
        self._step = step
        self._unit = unit
        self._residency = residency
        self._is_tied = is_tied
        self._lent: Callable[[], Tensor | None] = lambda: None

    def use(self) -> Tensor:
        """The tensor, for the model to compute with: its unit is brought in, and what comes after it."""
        return self._residency.use(self._unit)[self._name]

    def look(self) -> Tensor:
        """The tensor, for someone who goes over all of them: without its unit where that is not there, and kept nowhere."""
        values = self._unit.mapped if self._name in self._unit.mapped else self._residency.resident(self._unit)
        if values is None and self._is_tied:  # whoever asks under the other name must get the same tensor
            values = self._residency.hold(self._unit)
        if values is not None:
            return values[self._name]
        lent = self._lent()
        if lent is None:
            lent = self._residency.make_alone(self._unit, self._step)[self._name]
            self._lent = weakref.ref(lent)
        return lent


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

    def __iter__(self) -> Any:  # that it is defined makes dict(self) and **self ask `__getitem__`
        return super().__iter__()

    def __reduce_ex__(self, _: object) -> Never:
        raise UsageError("a streamed model can't be copied or pickled", hint="stream the checkpoint a second time, or load it whole")


def hold_on_demand(module: nn.Module, key: str, weight: Weight) -> None:
    """Let `module` find `weight` under `key` in place of the parameter or buffer that stands there."""
    name = "_parameters" if key in module._parameters else "_buffers"
    held = getattr(module, name)
    if not isinstance(held, OnDemand):
        held = OnDemand(held)
        setattr(module, name, held)
    held[key] = weight


def refuse_conversion(module: nn.Module, like: Collection[Tensor]) -> None:
    """Make `to`, `half` and their kin an error for `module`, unless they would change nothing in tensors as those of `like`."""
    module._apply = partial(_apply_nothing, module, like)  # pyright: ignore[reportAttributeAccessIssue]  # as torch calls it


def _apply_nothing(module: nn.Module, like: Collection[Tensor], function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    for tensor in like:
        applied = function(tensor)
        if (applied.dtype, applied.device) != (tensor.dtype, tensor.device):
            raise UsageError(
                f"a streamed model stays {tensor.dtype} on {tensor.device}".replace("torch.", ""), hint="stream it anew with what you want"
            )
    return module
