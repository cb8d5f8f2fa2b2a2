"""Which of a folder's files are the checkpoint's weights: the index and its shards, or the files that stand without one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .errors import InvalidCheckpointError, NotFoundError, UsageError
from .formats import FORMATS, Format, format_of
from .problems import Problem, first_few
from .text import did_you_mean, printable

_INDEX_SUFFIX = ".index.json"
# Most write five digits, DeepSeek six, others fewer; Meta numbers parts that hold a slice of every tensor each.
_NUMBER = re.compile(r"[-_](?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?=\.)|(?<=consolidated)\.(?P<part>\d\d)(?=\.)")
# What trainers leave beside the weights in the same formats.
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*|random_states\w*|trainer_state)\.(bin|pt|pth)")
_FOREIGN_WEIGHTS = (".h5", ".msgpack", ".ot", ".onnx", ".npz", ".nemo", ".mlmodel")
# The order in which from_pretrained of transformers, diffusers and PEFT would look for them; what is not named here comes after.
_PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
PICKLED_NAMES = frozenset(name for name in _PREFERRED if ".bin" in name)


@dataclass(frozen=True, slots=True)
class Layout:
    """One whole set of weights: its format, its shards in order, and the index that lists them, if there is one."""

    format: Format
    shards: tuple[str, ...]
    index: str | None = None
    alone: bool = False  # a file that was named itself: others of its series are not missed

    @property
    def label(self) -> str:
        """What a person would call it."""
        return self.index or (self.shards[0] if len(self.shards) == 1 else f"{self.shards[0]} and {len(self.shards) - 1} more")

    @property
    def whole(self) -> str:
        """The name of the one file that it is or would be."""
        return _NUMBER.sub("", self.shards[0]) if self.index is None else self.index.removesuffix(_INDEX_SUFFIX)

    @property
    def is_adapter(self) -> bool:
        """Whether these are an adapter's weights, to be added to those of another model."""
        return self.whole.rpartition("/")[2].startswith("adapter_model.")

    @property
    def is_original(self) -> bool:
        """Whether these are the weights as Meta or Mistral published them, before they were renamed for transformers."""
        return self.whole.rpartition("/")[2].startswith("consolidated.")

    @property
    def is_sliced(self) -> bool:
        """Whether every file holds a slice of each tensor, rather than some of the tensors."""
        return len(self.shards) > 1 and all((match := _NUMBER.search(shard)) and match["part"] for shard in self.shards)


def find_layout(files: Mapping[str, int], *, location: str, file: str | None = None) -> tuple[Layout, tuple[Layout, ...]]:
    """The weights among `files` that from_pretrained would load (`file` names others), and the sets that lie beside them.

    Raises NotFoundError where there are none, UsageError where several stand side by side with none preferred.
    """
    if file is not None:
        return _named(files, file, location), ()
    layouts = sorted(_layouts(name for name in files if "/" not in name and not _NOT_WEIGHTS.fullmatch(name)), key=_rank)
    if not layouts:
        raise _nothing_found(files, location)
    chosen, *others = layouts
    alike = [each for each in layouts if _rank(each)[:3] == _rank(chosen)[:3]]
    if len(alike) > 1:
        names = ", ".join(printable(each.label, limit=60) for each in alike[:4]) + (" ..." if len(alike) > 4 else "")
        raise UsageError(f"{location} holds {len(alike)} sets of weights: {names}", hint="choose one with --file")
    return chosen, tuple(others)


def matching_layout(files: Iterable[str], pattern: str, *, location: str) -> Layout:
    """The weights files in whose names the regular expression finds something. Raises NotFoundError, or UsageError for a bad one."""
    from .selection import select_regex

    shards = sorted(select_regex([name for name in files if format_of(name) is not None], pattern))
    formats = {found.name for shard in shards if (found := format_of(shard)) is not None}
    if len(formats) > 1:
        raise UsageError(f"'{pattern}' finds files of several formats in {location}: {', '.join(sorted(formats))}")
    if not shards:
        raise NotFoundError(f"'{pattern}' finds no weights file in {location}")
    return Layout(FORMATS[formats.pop()], tuple(shards))


def _rank(layout: Layout) -> tuple[int, int, bool, str]:
    """By which layouts are sorted. Among those that nothing prefers, indexes come first, and names say nothing."""
    name = layout.index or layout.whole
    if name in _PREFERRED:  # the whole file before shards that are numbered under its name
        return _PREFERRED.index(name), list(FORMATS).index(layout.format.name), name not in (layout.index, *layout.shards), name
    return len(_PREFERRED), list(FORMATS).index(layout.format.name), layout.index is None, name


def layout_problems(layout: Layout, others: Iterable[Layout], weight_map: Mapping[str, str]) -> Iterator[Problem]:
    """What a numbered series lacks, and what lies beside the layout; of the other files those in its `weight_map` belong to it.

    What nothing would load instead is only a note; a whole file and shards of the same name are a warning.
    """
    yield from first_few(_missing_from_series(layout))
    listed = set(weight_map.values())
    unused = [each for each in others if each.index is not None or not listed.issuperset(each.shards)]
    if unused:
        names = ", ".join(each.label for each in unused[:4]) + (" ..." if len(unused) > 4 else "")
        message = f"{len(unused) + 1} sets of weights side by side: {layout.label} is used, not {names}"
        doubtful = any(each.whole == layout.whole for each in unused)
        yield Problem("warning" if doubtful else "note", "several-layouts", message)


def _missing_from_series(layout: Layout) -> Iterator[Problem]:
    """The files that a numbered series without an index lacks, by what the others' names say of their number."""
    matches = [match for shard in layout.shards if (match := _NUMBER.search(shard))]
    if layout.alone or not matches:
        return
    first = matches[0]
    group = "number" if first["part"] is None else "part"
    present = {int(match[group]) for match in matches}
    start = 1 if group == "number" and 0 not in present else 0
    total = max(int(match["total"]) for match in matches) if group == "number" else max(present) + 1
    before, after = first.string[: first.start(group)], first.string[first.end(group) :]
    for number in range(start, start + total):
        if number not in present:
            name = f"{before}{number:0{len(first[group])}d}{after}"
            yield Problem("error", "missing-shard", "the other shards' names tell of this one, but it is not there", file=name)


def likely_shards(layout: Layout, files: Iterable[str]) -> list[str]:
    """The shards, as far as file names tell them before the index is read."""
    if layout.index is None:
        return list(layout.shards)
    return [name for name in files if name != layout.whole and _NUMBER.sub("", name) == layout.whole]


def is_numbered(file: str) -> bool:
    """Whether a file's name says that it holds some of a model's tensors."""
    match = _NUMBER.search(file)
    return match is not None and match["part"] is None


def is_read_in_series(file: str) -> bool:
    """Whether a file is only a part of something, so that naming one part means all of them: of a split GGUF file, or Meta's."""
    match = _NUMBER.search(file)
    return match is not None and (match["part"] is not None or format_of(file) is FORMATS["gguf"])


def _named(files: Mapping[str, int], file: str, location: str) -> Layout:
    if file not in files:
        raise NotFoundError(f"{location} has no file '{printable(file)}'", hint=did_you_mean(file, files))
    in_series = is_read_in_series(file)
    found = next((each for each in _layouts(files if in_series else (file,)) if file in (each.index, *each.shards)), None)
    if found is None:
        raise UsageError(f"'{printable(file)}' is no weights file that mlload reads", hint=f"known endings: {_known_suffixes()}")
    return replace(found, alone=not in_series)


def _layouts(names: Iterable[str]) -> Iterator[Layout]:
    """Every set of weights: each index, each numbered series without an index, each single file."""
    known = [(name, found) for name in names if (found := format_of(name.removesuffix(_INDEX_SUFFIX))) is not None]
    indexes = {name.removesuffix(_INDEX_SUFFIX) for name, _ in known if name.endswith(_INDEX_SUFFIX)}
    series: dict[tuple[str, str | None], list[str]] = {}  # a whole file and shards numbered under its name are two sets
    for name, _ in known:
        if not name.endswith(_INDEX_SUFFIX):
            match = _NUMBER.search(name)
            series.setdefault((_NUMBER.sub("", name), match and match.lastgroup), []).append(name)
    for name, found in known:
        whole = name.removesuffix(_INDEX_SUFFIX)
        # An index beside the one file that it is named after lists that file, unless there are shards.
        if whole != name and ((whole, None) not in series or (whole, "total") in series):
            yield Layout(found, (), index=name)
    for (whole, group), shards in series.items():
        found = format_of(shards[0])
        if found is not None and (group != "total" or whole not in indexes):
            yield Layout(found, tuple(sorted(shards)))


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
