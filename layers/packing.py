"""Nested values as JSON and named tensors, so that they can lie in a file; what comes out of a file is checked piece by piece."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..loader.dtypes import TORCH_NAMES
from ..loader.errors import InvalidCheckpointError, UsageError
from ..loader.execution.weight_files import TORCH_DTYPES
from .nested import Gone, Held, Own

_MOST_BYTES, _MOST_AXES = 1 << 31, 16  # of a tensor that the file does not hold but describes


class Packing:
    """Packs values; `tensors` gathers what is to lie beside the JSON. A tensor that is met again is written once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._packed: dict[int, tuple[Tensor, dict[str, Any]]] = {}  # the tensor as well, so that no other one gets its id

    def pack(self, value: Any, name: str) -> Any:
        """`value` as JSON; tensors in it get names that begin with `name`."""
        if isinstance(value, Tensor):
            return self._tensor(value, name)
        if isinstance(value, Gone):
            return {"gone": [TORCH_NAMES[_dtype_name(value.dtype)], list(value.shape)]}
        if isinstance(value, Own):
            return {"own": True}
        if isinstance(value, Held):
            return {"held": self.pack(dict(value.attributes), name)}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            fields = list(getattr(value, "_fields"))  # noqa: B009  # a tuple's type does not tell of them
            return {"fields": fields, "values": self._all(value, name)}
        if isinstance(value, tuple | list):
            return {"tuple" if isinstance(value, tuple) else "list": self._all(value, name)}
        if isinstance(value, Mapping):
            return {"mapping": [[key, self.pack(item, f"{name}.{key}")] for key, item in value.items()]}
        return value

    def _all(self, values: tuple[Any, ...] | list[Any], name: str) -> list[Any]:
        return [self.pack(item, f"{name}.{place}") for place, item in enumerate(values)]

    def _tensor(self, tensor: Tensor, name: str) -> dict[str, Any]:
        if id(tensor) not in self._packed:
            if _dtype_name(tensor.dtype) not in TORCH_NAMES:
                raise UsageError(f"its layers are given a tensor of {tensor.dtype}, which no file of this format can hold")
            self.tensors[name], layout = _laid_out(tensor)
            self._packed[id(tensor)] = tensor, {"tensor": name, **layout}
        return self._packed[id(tensor)][1]


def _laid_out(tensor: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The tensor's elements in the order of its memory, each once, and what makes them lie so again: strides decide on rounding."""
    layout: dict[str, Any] = {}
    repeated = [axis for axis, stride in enumerate(tensor.stride()) if stride == 0 and tensor.shape[axis] > 1]
    if repeated:
        layout["shape"] = list(tensor.shape)
        for axis in repeated:
            tensor = tensor.narrow(axis, 0, 1)
    if not tensor.is_contiguous():
        order = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
        if order != list(range(tensor.ndim)):
            layout["order"] = order
            tensor = tensor.permute(order)
    return tensor.contiguous(), layout


class Unpacking:
    """Makes values again of what `Packing` made of them, and raises InvalidCheckpointError, naming `file`, for anything else."""

    def __init__(self, tensors: Mapping[str, Tensor], file: str) -> None:
        self._tensors = tensors
        self._file = file

    def unpack(self, packed: object) -> Any:
        """The value."""
        match packed:
            case None | bool() | int() | float() | str():
                return packed
            case {"tensor": str(name), **layout} if name in self._tensors:
                return self._arranged(self._tensors[name], layout.get("shape"), layout.get("order"))
            case {"gone": [str(dtype), list(shape)]} if dtype in TORCH_DTYPES and _are_sizes(shape):
                return self._gone(tuple(shape), TORCH_DTYPES[dtype])
            case {"own": True}:
                return Own()
            case {"held": {"mapping": list(pairs)}}:
                return self._held(dict(map(self._pair, pairs)))
            case {"float": "nan" | "inf" | "-inf" as number}:
                return float(number)
            case {"tuple": list(items)}:
                return tuple(map(self.unpack, items))
            case {"list": list(items)}:
                return [*map(self.unpack, items)]
            case {"fields": list(names), "values": list(items)} if len(names) == len(items):
                return self._named(names, items)
            case {"mapping": list(pairs)}:
                return dict(map(self._pair, pairs))
        raise self.refused("holds a value of unknown make")

    def refused(self, what: str) -> InvalidCheckpointError:
        """The error to raise: the state does `what`."""
        return InvalidCheckpointError(f"the state {what}", file=self._file, hint="make it anew")

    def _arranged(self, tensor: Tensor, shape: object, order: object) -> Tensor:
        if order is not None:
            if not _are_sizes(order) or sorted(order) != list(range(tensor.ndim)):
                raise self.refused("puts a tensor's axes in no order")
            tensor = tensor.permute([order.index(axis) for axis in range(tensor.ndim)])
        if shape is not None:
            if not _are_sizes(shape) or len(shape) != tensor.ndim or math.prod(shape) * tensor.itemsize > _MOST_BYTES:
                raise self.refused("gives a tensor a shape that it can't have")
            if any(own not in (1, size) for size, own in zip(shape, tensor.shape, strict=True)):
                raise self.refused("gives a tensor a shape that it can't have")
            tensor = tensor.expand(shape)
        return tensor

    def _gone(self, shape: tuple[int, ...], dtype: torch.dtype) -> Gone:
        if math.prod(shape) * dtype.itemsize > _MOST_BYTES:
            raise self.refused("tells of a tensor larger than any layer gives")
        return Gone(shape, dtype)

    def _held(self, attributes: dict[str | int, Any]) -> Held:
        if not all(isinstance(name, str) and name.isidentifier() and not name.startswith("__") for name in attributes):
            raise self.refused("holds a cache with attributes that none has")
        return Held({str(name): value for name, value in attributes.items()})

    def _named(self, names: list[object], items: list[object]) -> tuple[Any, ...]:
        try:
            return namedtuple("Output", map(str, names))(*map(self.unpack, items))
        except ValueError:
            raise self.refused("names a field as none can be") from None

    def _pair(self, pair: object) -> tuple[str | int, Any]:
        match pair:
            case [str() | int() as key, value]:
                return key, self.unpack(value)
        raise self.refused("holds a mapping without keys")


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) < _MOST_AXES and all(type(size) is int and 0 <= size < _MOST_BYTES for size in value)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
