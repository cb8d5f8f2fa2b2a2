"""A checkpoint's tensors by name, list, glob or regular expression; only what is asked for is read."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..loader.checkpoint import Checkpoint
from ..loader.errors import InvalidCheckpointError, UsageError
from ..loader.loading import LoadedModel
from ..loader.selection import nearest, select_glob, select_regex
from ..loader.sources.download import local_folder
from ..loader.tensors import Sliced, TensorEntry
from ..loader.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from ..loader.execution.weight_files import WeightFiles

_GLOB = re.compile(r"[*?[]")


class StateDict:
    """The tensors of a checkpoint under the names that it gives them.

    Before the model is loaded they are read from the files, in the dtype they are stored in, as mapped pages where that is possible;
    after, they are the model's own. Of a hub's repository only the shards that hold them are downloaded.

    `state["model.norm.weight"]` is a tensor; a list of names, a glob or a compiled regular expression gives a dict, empty where a
    pattern finds nothing. A name that the checkpoint does not have is a UsageError that tells the nearest.
    """

    def __init__(self, checkpoint: Checkpoint, *, mapped: bool = True, loaded: Callable[[], LoadedModel | None] = lambda: None) -> None:
        self._checkpoint = checkpoint
        self._mapped = mapped
        self._loaded = loaded
        # A commit on the hub can't change; a local file can, between its header and its tensors.
        self._pinned = {} if checkpoint.source == "hub" else {name: _identity(self._path(name)) for name in checkpoint.shards}

    def __len__(self) -> int:
        return len(self._checkpoint.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._checkpoint.tensors

    def __repr__(self) -> str:
        return f"StateDict({counted(len(self), 'tensor')} of {self._checkpoint.reference})"

    def keys(self) -> list[str]:
        """All names, in the order of files and offsets."""
        return list(self)

    @overload
    def __getitem__(self, key: str) -> Any: ...  # a tensor, or what a glob finds: only the text itself tells

    @overload
    def __getitem__(self, key: Iterable[str] | re.Pattern[str]) -> dict[str, Tensor]: ...

    def __getitem__(self, key: str | Iterable[str] | re.Pattern[str]) -> Tensor | dict[str, Tensor]:
        if isinstance(key, re.Pattern):
            return self.regex(key)
        if not isinstance(key, str):
            return self._tensors(list(key))
        if key not in self and _GLOB.search(key):
            return self.glob(key)
        return self._tensors([key])[key]

    def glob(self, pattern: str) -> dict[str, Tensor]:
        """The tensors whose names `pattern` (`*`, `?`, `[...]`) matches whole."""
        return self._tensors(select_glob(self, pattern))

    def regex(self, pattern: str | re.Pattern[str]) -> dict[str, Tensor]:
        """The tensors in whose names the expression finds something. Raises UsageError for text that is none, or takes too long."""
        if isinstance(pattern, re.Pattern):
            return self._tensors([name for name in self if pattern.search(name)])
        return self._tensors(select_regex(self, pattern))

    def _tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        for name in names:
            if name not in self:
                raise UsageError(f"{self._checkpoint.reference} has no tensor '{name}'", hint=nearest(self.keys(), name))
        loaded = self._loaded()
        held = {} if loaded is None else _held(loaded, set(names))
        stored = self._stored([self._checkpoint.tensors[name] for name in names if name not in held])
        return {name: held[name] if name in held else stored[name] for name in names}

    def _stored(self, entries: Sequence[TensorEntry]) -> dict[str, Tensor]:
        """The tensors as the files hold them. Raises InvalidCheckpointError where a file is not the one whose header was read."""
        if not entries:
            return {}
        shards = {part.file for entry in entries for part in _parts(entry)}
        local_folder(self._checkpoint, shards=shards)
        for shard in shards & self._pinned.keys():
            if _identity(self._path(shard)) != self._pinned[shard]:
                raise InvalidCheckpointError("the file changed since its header was read", file=shard, hint="open the checkpoint again")
        tensors = {entry.name: self._files.read(entry) for entry in entries}
        self._files.check_unchanged()
        return tensors

    @cached_property
    def _files(self) -> WeightFiles:
        from ..loader.execution.weight_files import WeightFiles

        files = WeightFiles(local_folder(self._checkpoint, shards=()), mapped=self._mapped)
        weakref.finalize(self, files.close)
        return files

    def _path(self, shard: str) -> Path:
        return local_folder(self._checkpoint, shards=()) / shard


def _held(loaded: LoadedModel, names: set[str]) -> dict[str, Tensor]:
    """Those of the checkpoint's tensors that lie in the model's memory, put back into the form that the checkpoint has them in."""
    from ..loader.execution.skeleton import as_stored

    state = loaded.model.state_dict()
    quantized = getattr(loaded.model, "hf_quantizer", None) is not None
    held: dict[str, Tensor] = {}
    for step in loaded.plan.steps:
        if names.isdisjoint(entry.name for entry, _ in step.sources):
            continue
        made = {target.name: state[target.name] for target in step.targets if target.name in state}
        if not made or any(tensor.is_meta for tensor in made.values()):
            continue  # streamed, or on another rank
        if step.conversion is None:
            held[step.sources[0][0].name] = made[step.targets[0].name]
        elif not quantized:  # packed weights can't be taken apart again
            held |= as_stored(loaded.model, made)
    return held


def _parts(entry: TensorEntry) -> tuple[TensorEntry, ...]:
    return entry.arrangement.parts if isinstance(entry.arrangement, Sliced) else (entry,)


def _identity(path: Path) -> tuple[int, int, int]:
    now = path.stat()
    return now.st_size, now.st_mtime_ns, now.st_ino
