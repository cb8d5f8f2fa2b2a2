"""What two checkpoints differ in: config keys, tensor names, shapes and dtypes. Their weights are not compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from .checkpoint import Checkpoint
from .selection import select

SCHEMA = "mlload.diff/1"
_MAX_DEPTH = 20  # of nested config sections


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs; None on the side that has none."""

    name: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class DiffReport:
    """The differences from `reference` (before) to `other` (after), of the tensors that `glob` and `regex` choose."""

    schema: str
    reference: str
    other: str
    glob: str | None
    regex: str | None
    same: bool
    config: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    shapes: tuple[Change, ...]
    dtypes: tuple[Change, ...]
    common_tensors: int

    def to_json(self) -> dict[str, object]:
        """The report as the object that `--json` prints."""
        return asdict(self)


def diff(
    reference: str | os.PathLike[str] | Checkpoint,
    other: str | os.PathLike[str] | Checkpoint,
    *,
    file: str | None = None,
    glob: str | None = None,
    regex: str | None = None,
) -> DiffReport:
    """What the headers and configs of two checkpoints differ in. Raises what Checkpoint.open raises, UsageError for a bad pattern.

    `file` chooses the weights file on each side that is not itself a file. With `glob` or `regex` only the tensors that they choose
    are compared, and no config.
    """
    before, after = (each if isinstance(each, Checkpoint) else Checkpoint.open(each, file=file) for each in (reference, other))
    config: tuple[Change, ...] = ()
    if glob is None and regex is None:
        config = tuple(_changes(dict(_flat(before.config or {})), dict(_flat(after.config or {}))))
    chosen = select({**before.tensors, **after.tensors}, glob=glob, regex=regex)
    common = [name for name in chosen if name in before.tensors and name in after.tensors]
    shapes = tuple(
        _differing({name: list(before.tensors[name].shape) for name in common}, {name: list(after.tensors[name].shape) for name in common})
    )
    dtypes = tuple(_differing({name: before.tensors[name].dtype for name in common}, {name: after.tensors[name].dtype for name in common}))
    only_before = tuple(name for name in chosen if name not in after.tensors)
    only_after = tuple(name for name in chosen if name not in before.tensors)
    return DiffReport(
        schema=SCHEMA,
        reference=before.reference,
        other=after.reference,
        glob=glob,
        regex=regex,
        same=not (config or only_before or only_after or shapes or dtypes),
        config=config,
        only_before=only_before,
        only_after=only_after,
        shapes=shapes,
        dtypes=dtypes,
        common_tensors=len(common),
    )


def _flat(section: Mapping[str, object], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Nested keys joined by dots, lists and what lies too deep as they are."""
    for key, value in section.items():
        if isinstance(value, dict) and value and depth < _MAX_DEPTH:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[Change]:
    for name in {**before, **after}:
        if name not in before or name not in after or not _equal(before[name], after[name]):
            yield Change(name, before.get(name), after.get(name))


def _equal(one: object, other: object) -> bool:
    # In JSON true is not 1.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[Change]:
    for name, value in before.items():
        if value != after[name]:
            yield Change(name, value, after[name])
