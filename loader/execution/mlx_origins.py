"""Where lazy arrays come from: MLX draws the graph that would make them, and nothing is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO

import mlx.core as mx

_PRIMITIVE = re.compile(r'^\{ (\d+) \[label ="(\w+)"', re.MULTILINE)
_TAKES = re.compile(r'^"(\w+)" -> (\d+)$', re.MULTILINE)
_MAKES = re.compile(r'^(\d+) -> "(\w+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one array comes from: names of stored ones, and the operations of MLX on the way, if there are any."""

    sources: tuple[str, ...]
    operations: tuple[str, ...] = ()


def find_origins(made: Mapping[str, mx.array], stored: Mapping[str, mx.array]) -> dict[str, Origin]:
    """Of each array of `made` where it comes from, in terms of `stored`, whose arrays it was made from."""
    same = {id(array): name for name, array in stored.items()}
    origins = {name: Origin((same[id(array)],)) for name, array in made.items() if id(array) in same}
    derived = [name for name in made if name not in origins]
    if derived:
        # Names of our own, because those of tensors are not quoted.
        sources = {f"stored{number}": name for number, name in enumerate(stored)}
        results = {f"made{number}": name for number, name in enumerate(derived)}
        graph = _Graph({key: stored[name] for key, name in sources.items()} | {key: made[name] for key, name in results.items()})
        origins |= {name: graph.origin(key, sources) for key, name in results.items()}
    return {name: origins[name] for name in made}


class _Graph:
    """The graph that ends in some arrays, as `mx.export_to_dot` draws it: arrays are words, primitives are numbers."""

    def __init__(self, arrays: Mapping[str, mx.array]) -> None:
        drawn = StringIO()
        mx.export_to_dot(drawn, **arrays)
        text = drawn.getvalue()
        self._labels = dict(_PRIMITIVE.findall(text))
        self._maker = {array: primitive for primitive, array in _MAKES.findall(text)}
        self._takes: dict[str, list[str]] = {}
        for array, primitive in _TAKES.findall(text):
            self._takes.setdefault(primitive, []).append(array)

    def origin(self, key: str, sources: Mapping[str, str]) -> Origin:
        """Backwards from one array to those that are stored."""
        found: dict[str, None] = {}
        operations: dict[str, None] = {}
        waiting, seen = [key], {key}
        while waiting:
            key = waiting.pop()
            if key in sources:
                found[sources[key]] = None
            elif (primitive := self._maker.get(key)) is not None:
                operations[self._labels[primitive]] = None
                further = [array for array in reversed(self._takes.get(primitive, [])) if array not in seen]
                waiting.extend(further)
                seen.update(further)
        return Origin(tuple(found), tuple(reversed(operations)))
