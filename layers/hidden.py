"""The hidden state among all that a layer is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ..loader.errors import UsageError
from .nested import Gone

_NAME = "hidden_states"

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Value = TypeVar("Value")


def hidden_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden state that enters a layer: what is called so, else the first tensor of numbers."""
    named = kwargs.get(_NAME)
    return named if isinstance(named, Tensor) else hidden_of((tuple(args), dict(kwargs)))


def with_hidden_in(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Arguments:
    """The arguments with `hidden` in the place of the hidden state."""
    if isinstance(kwargs.get(_NAME), Tensor):
        return args, {**kwargs, _NAME: hidden}
    return with_hidden((args, kwargs), hidden)


def hidden_of(output: Any) -> Tensor:
    """The hidden state in what a layer gives back."""
    found: list[Tensor] = []
    _first(output, lambda tensor: found.append(tensor) or tensor)
    if not found:
        raise UsageError("its layers hand on no tensor of numbers")
    return found[0]


def with_hidden(output: Value, hidden: Tensor) -> Value:
    """What a layer gave back with `hidden` in the place of the hidden state."""
    return _first(output, lambda _: hidden)


def _first(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with its first tensor of floating-point numbers changed."""
    done = False

    def leaf(tensor: Tensor | Gone) -> Tensor | Gone:
        nonlocal done
        if done or isinstance(tensor, Gone) or not tensor.is_floating_point():
            return tensor
        done = True
        return change(tensor)

    return _mapped(value, leaf)


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """`value` with its tensors changed, and everything else as it is."""
    if isinstance(value, Tensor | Gone):
        return leaf(value)
    if isinstance(value, tuple):
        items = [_mapped(item, leaf) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_mapped(item, leaf) for item in value]
    return {key: _mapped(item, leaf) for key, item in value.items()} if isinstance(value, dict) else value
