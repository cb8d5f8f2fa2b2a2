"""Quantized weights kept on disk, one file a unit: a load writes what it quantizes, and later ones map it.

A unit is there, whole and for this very key, or it is quantized again: there is no other state. Nothing that goes wrong with the cache
fails a load or changes what it gives. Every file has a checksum, which is verified unless it is the very file for which it was before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import torch
from torch import Tensor

from ..cache_folder import cache_folder
from ..errors import InvalidCheckpointError, NotFoundError
from ..formats.safetensors import read_header
from ..plan import Unit
from ..sources.local import LocalFile
from ..tensors import TensorEntry
from ..writing import is_being_written, sweep
from .cache_key import SourceFiles
from .checked_file import checksum, write_checked
from .verified import Verified
from .weight_files import WeightFiles

Parts = Mapping[str, Tensor]  # plain tensors from which one quantized weight can be made again

_BETWEEN = "#"  # a weight's name and that of its part


def open_cache(key: str, units: Iterable[Unit], sources: SourceFiles, *, mapped: bool, workers: int) -> QuantizedCache | None:
    """The cache of `units`, with what is there checked by as many threads as `workers`; None for a user without a home."""
    root = cache_folder("quantized")
    names = [unit.name for unit in units if unit.is_quantized]
    return root and QuantizedCache(root, key, names, is_current=sources.are_unchanged, mapped=mapped, workers=workers)


def weight_of(entry: TensorEntry) -> str:
    """The quantized weight that a tensor of a unit's file is a part of."""
    return entry.name.rpartition(_BETWEEN)[0]


def read_parts(entries: Iterable[TensorEntry], files: WeightFiles, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """The parts of each weight that a unit's file holds, on `device`; on the CPU they are the file's pages."""
    weights: dict[str, dict[str, Tensor]] = {}
    for entry in entries:
        part = entry.name.rpartition(_BETWEEN)[2]
        weights.setdefault(weight_of(entry), {})[part] = files.read_to(entry, device)
    return weights


class QuantizedCache:
    """The units of one key. `status`: `hit` where all were there at the beginning, `miss` where none was, else `partial`.

    `problem` says why units could not be written. `is_current` tells whether the weights that the key is of are still the same.
    """

    def __init__(self, root: Path, key: str, units: Iterable[str], *, is_current: Callable[[], bool], mapped: bool, workers: int) -> None:
        self.problem: str | None = None
        self.folder = root / key
        self._root = root
        self._key = key
        self._is_current = is_current
        self._files = WeightFiles(self.folder, mapped=mapped)
        self._verified = Verified(self.folder)
        names = list(units)
        with ThreadPoolExecutor(workers) as pool:
            checked = zip(names, pool.map(self._whole, names), strict=True)
            self._there = {name: entries for name, entries in checked if entries is not None}
        self.total, self.found = len(names), len(self._there)
        self._writer = ThreadPoolExecutor(2)  # while one waits for the disk, the other makes up what comes next
        self._sweeping = threading.Lock()
        self._has_swept = False
        self._written: list[Future[None]] = []

    @property
    def status(self) -> str:
        """What was there at the beginning."""
        return "hit" if self.found == self.total else "partial" if self.found else "miss"

    def holds(self, unit: str) -> bool:
        """Whether the unit was there at the beginning."""
        return unit in self._there

    def entries(self, unit: str) -> tuple[TensorEntry, ...] | None:
        """What a unit's file in `folder` holds; None where it is to be made."""
        return self._there.get(unit) or self._whole(unit)  # another process may have written it by now

    def take(self, unit: str, device: torch.device) -> Mapping[str, Parts] | None:
        """The parts of each quantized weight of a unit, as `read_parts`; None where they are to be made."""
        entries = self.entries(unit)
        if entries is None:
            return None
        try:
            return read_parts(entries, self._files, device)
        except (OSError, InvalidCheckpointError):  # somebody empties the cache
            return None

    def keep(self, unit: str, weights: Mapping[str, Parts]) -> Future[None]:
        """Write a unit while loading goes on. Its tensors must stay as they are until that is done, as it is in the end by `close`."""
        tensors = {f"{name}{_BETWEEN}{part}": tensor for name, parts in weights.items() for part, tensor in parts.items()}
        written = self._writer.submit(self._write, unit, tensors)
        self._written.append(written)
        return written

    def is_current(self) -> bool:
        """Whether the weights that it is of are still those that they were."""
        return self._is_current()

    def close(self) -> None:
        """Wait until everything is written. Raises InvalidCheckpointError if a file that was taken has changed since."""
        self._writer.shutdown()
        for written in self._written:
            written.result()
        self._verified.save()
        self._files.check_unchanged()
        self._files.close()

    def __enter__(self) -> QuantizedCache:
        return self

    def __exit__(self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """After an error: what is not being written yet is left out."""
        self._writer.shutdown(cancel_futures=True)

    def _path(self, unit: str) -> Path:
        return self.folder / f"{quote(unit, safe='')}.safetensors"

    def _whole(self, unit: str) -> tuple[TensorEntry, ...] | None:
        """The tensors in a unit's file, every byte of which is checked; None where there is no such file, or none that is right."""
        path = self._path(unit)
        try:
            with LocalFile(path, path.name) as file:
                header = read_header(file)
                if self._verified.knows(unit, file.identity):
                    return header.tensors
                found = {"key": self._key, "unit": unit, "crc32": checksum(file, header)}
                if header.metadata != found:
                    return None
                self._verified.note(unit, file.identity)
                return header.tensors
        except (InvalidCheckpointError, NotFoundError):
            return None

    def _write(self, unit: str, tensors: Mapping[str, Tensor]) -> None:
        if self.problem is not None or not self._is_current():
            return
        path = self._path(unit)
        try:
            self._sweep()
            if not is_being_written(path):
                identity = write_checked(path, {"key": self._key, "unit": unit}, tensors)
                if identity is not None:
                    self._verified.note(unit, identity)
        except OSError as error:
            self.problem = f"{self.folder}: {error.strerror}"

    def _sweep(self) -> None:
        with self._sweeping:
            if self._has_swept:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in self._root.iterdir():
                sweep(folder)
            self._has_swept = True
