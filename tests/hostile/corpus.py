"""The corpus: every case by its name. What can be read is also shown, as tables of parts and of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hostile import configs, folders, giants, headers, other_formats
from hostile.case import Case

_WRITTEN = (*headers.CASES, *configs.CASES, *folders.CASES, *other_formats.CASES)


def _shown() -> Iterator[Case]:
    for case in _WRITTEN:
        if case.code == 0 and case.args == ("--json",):
            yield replace(case, name=f"{case.name}, parts shown", args=("--layers",), words=())
            yield replace(case, name=f"{case.name}, tensors shown", args=("--tensors",), words=())


_ALL = (*_WRITTEN, *_shown(), *giants.CASES)
CASES: dict[str, Case] = {case.name: case for case in _ALL}
if len(CASES) != len(_ALL):
    names = [case.name for case in _ALL]
    raise ValueError(f"two cases have one name: {sorted({name for name in names if names.count(name) > 1})}")
