"""Which of a folder's files are the checkpoint's weights: the index and its shards, or the files that stand without one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .errors import InvalidCheckpointError, NotFoundError, UsageError
from .formats import FORMATS, Format, format_of
from .problems import Problem, first_few
from .text import printable

_INDEX_SUFFIX = ".index.json"
_SHARD_NUMBER = re.compile(r"[-_](\d{1,6})-of-(\d{1,6})(?=\.)")  # most write five digits, DeepSeek six, others fewer
# What trainers leave beside the weights in the same formats.
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*|random_states\w*|trainer_state)\.(bin|pt|pth)")
_FOREIGN_WEIGHTS = (".h5", ".msgpack", ".ot", ".onnx", ".npz", ".nemo", ".mlmodel")
# The order in which from_pretrained would look for them; what is not named here comes after.
_PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """One whole set of weights: its format, its shards in order, and the index that lists them, if there is one."""

    format: Format
    shards: tuple[str, ...]
    index: str | None = None

    @property
    def label(self) -> str:
        """What a person would call it."""
        return self.index or (self.shards[0] if len(self.shards) == 1 else f"{self.shards[0]} and {len(self.shards) - 1} more")


def find_layout(files: Mapping[str, int], *, location: str, file: str | None = None) -> tuple[Layout, list[Problem]]:
    """The weights among `files` that from_pretrained would load (`file` names others), and what to know of the rest.

    Raises NotFoundError where there are none, UsageError where several stand side by side with none preferred.
    """
    if file is not None:
        return _named(files, file, location), []
    layouts = list(_layouts(name for name in files if "/" not in name and not _NOT_WEIGHTS.fullmatch(name)))
    if not layouts:
        raise _nothing_found(files, location)
    layouts.sort(key=_rank)
    chosen, *others = layouts
    problems = list(first_few(_missing_from_series(chosen)))
    alike = [each for each in others if each.format is chosen.format and _rank(each)[0] == len(_PREFERRED)]
    if alike and _rank(chosen)[0] == len(_PREFERRED) and chosen.format is not FORMATS["safetensors"]:
        names = ", ".join(printable(each.label, limit=60) for each in [chosen, *alike][:4])
        raise UsageError(f"{location} holds {len(alike) + 1} sets of weights: {names}", hint="choose one with --file")
    if others:
        message = (
            f"{len(others) + 1} sets of weights side by side: {chosen.label} is used, not {', '.join(each.label for each in others[:4])}"
        )
        problems.append(Problem("warning", "several-layouts", message))
    return chosen, problems


def _missing_from_series(layout: Layout) -> Iterator[Problem]:
    """The shards that a numbered series without an index lacks, by what their names say of their number."""
    numbers = [(int(match[1]), int(match[2])) for shard in layout.shards if (match := _SHARD_NUMBER.search(shard))]
    present, total = {number for number, _ in numbers}, max((total for _, total in numbers), default=0)
    start = 0 if 0 in present else 1
    for number in range(start, start + total):
        if number not in present:
            name = _SHARD_NUMBER.sub(f"-{number:05d}-of-{total:05d}", layout.shards[0])
            yield Problem("error", "missing-shard", "the other shards' names tell of this one, but it is not there", file=name)


def likely_shards(layout: Layout, files: Iterable[str]) -> list[str]:
    """The shards, as far as file names tell them before the index is read."""
    if layout.index is None:
        return list(layout.shards)
    whole = layout.index.removesuffix(_INDEX_SUFFIX)
    return [name for name in files if name != whole and _SHARD_NUMBER.sub("", name) == whole]


def is_numbered(file: str) -> bool:
    """Whether a file's name says that it is one of several shards."""
    return _SHARD_NUMBER.search(file) is not None


def _named(files: Mapping[str, int], file: str, location: str) -> Layout:
    if file not in files:
        raise NotFoundError(f"{location} has no file '{printable(file)}'")
    found = next(iter(_layouts([file])), None)
    if found is None:
        raise UsageError(f"'{printable(file)}' is no weights file that mlload reads", hint=f"known endings: {_known_suffixes()}")
    return found


def _layouts(names: Iterable[str]) -> Iterable[Layout]:
    """Every set of weights: each index, each numbered series without an index, each single file."""
    known = [(name, found) for name in names if (found := format_of(name.removesuffix(_INDEX_SUFFIX))) is not None]
    indexes = {name.removesuffix(_INDEX_SUFFIX) for name, _ in known if name.endswith(_INDEX_SUFFIX)}
    series: dict[tuple[str, bool], list[str]] = {}  # a whole file and shards numbered under its name are two sets
    for name, found in known:
        if name.endswith(_INDEX_SUFFIX):
            yield Layout(found, (), index=name)
        elif (whole := _SHARD_NUMBER.sub("", name)) not in indexes or whole == name:
            series.setdefault((re.sub(r"(consolidated)\.\d\d(?=\.)", r"\1", whole), whole != name), []).append(name)
    for shards in series.values():
        found = format_of(shards[0])
        if found is not None:
            yield Layout(found, tuple(sorted(shards)))


def _rank(layout: Layout) -> tuple[int, int, str, bool]:
    whole = layout.index or _SHARD_NUMBER.sub("", layout.shards[0])
    place = _PREFERRED.index(whole) if whole in _PREFERRED else len(_PREFERRED)
    return place, list(FORMATS).index(layout.format.name), whole, whole not in (layout.index, *layout.shards)


def _known_suffixes() -> str:
    return ", ".join(suffix for line in FORMATS.values() for suffix in line.suffixes)


def _nothing_found(files: Mapping[str, int], location: str) -> NotFoundError:
    foreign = next((name for name in files if name.endswith(_FOREIGN_WEIGHTS)), None)
    if foreign is not None:
        return NotFoundError(
            f"{location} has weights only in a format that mlload does not read ({printable(foreign)})", hint="convert them to safetensors"
        )
    below = next((name for name in files if "/" in name and format_of(name)), None)
    if below is not None:
        folder = printable(below.rsplit("/", 1)[0])
        return NotFoundError(
            f"{location} has no weights at its top, only in subfolders such as '{folder}'",
            hint="name the subfolder, or the file with --file",
        )
    return NotFoundError(
        f"{location} holds no weights: no file ends in {_known_suffixes()}", hint="is it the right folder, and downloaded whole?"
    )


def shards_of_index(weight_map: object, *, index: str) -> dict[str, str]:
    """The index's table of tensor names and shards. Raises InvalidCheckpointError for a shard that is not a bare file name."""
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidCheckpointError("has no weight_map, the table of tensors and shards", file=index)
    bare: set[object] = set()
    for name, shard in weight_map.items():
        if isinstance(shard, str) and (shard in bare or _is_bare(shard)):
            bare.add(shard)
        else:
            raise InvalidCheckpointError(f"its shard '{shard}' is not a file name inside the folder", file=index, tensor=name)
    return weight_map


def _is_bare(name: str) -> bool:
    return 0 < len(name) <= 255 and name not in (".", "..") and not any(char in name for char in "/\\\0:")
