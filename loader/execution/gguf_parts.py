"""A GGUF model in parts as the one file that transformers reads: put together on the disk for as long as that takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from struct import pack
from typing import BinaryIO

from ..cache_folder import cache_folder
from ..checkpoint import Checkpoint
from ..dtypes import GGUF_TYPES
from ..errors import DoesNotFitError
from ..formats.gguf import padded, read_prologue
from ..sources.local import LocalFile
from ..tensors import TensorEntry
from ..text import format_bytes
from ..writing import scratch_file, sweep

_CHUNK = 1 << 24  # bytes copied at once
_COUNT = slice(8, 16)  # where a header says how many tensors it lists
_NUMBERS = {kind.name: number for number, kind in GGUF_TYPES.items()}


@contextmanager
def one_file(checkpoint: Checkpoint, folder: Path, *, weights: bool) -> Iterator[Path]:
    """A file with all of the checkpoint's tensors until the end of the `with`: its own, or one beside the cache that joins its parts.

    Without `weights` only the header is written. Raises DoesNotFitError where the disk does not take it.
    """
    if len(checkpoint.shards) == 1:
        yield folder / checkpoint.shards[0]
        return
    with ExitStack() as stack:
        yield _joined(checkpoint, folder, stack, weights=weights)


def _joined(checkpoint: Checkpoint, folder: Path, stack: ExitStack, *, weights: bool) -> Path:
    """The parts in one file, which goes with the `stack`."""
    place = cache_folder("gguf")
    hint = "let MLLOAD_CACHE name a folder with room for it, or make one file with llama-gguf-split --merge"
    if place is None:
        raise DoesNotFitError(f"there is no cache folder to put the {len(checkpoint.shards)} parts together in", hint=hint)
    try:
        place.mkdir(parents=True, exist_ok=True)
        sweep(place)
        descriptor, path = stack.enter_context(scratch_file(place / "joined.gguf"))
        with open(descriptor, "wb", closefd=False) as out:
            _write(out, checkpoint, folder, weights=weights)
    except OSError as error:
        size = format_bytes(sum(entry.nbytes for entry in checkpoint.tensors.values()))
        raise DoesNotFitError(f"{place} does not take the {size} of all parts: {error.strerror}", hint=hint) from None
    return path


def _write(out: BinaryIO, checkpoint: Checkpoint, folder: Path, *, weights: bool) -> None:
    """The first part's metadata, a table of all tensors, and their bytes in its order."""
    first, tensors = checkpoint.shards[0], list(checkpoint.tensors.values())
    with LocalFile(folder / first, first) as source:
        prologue, alignment = read_prologue(source)
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end = padded(end + tensor.nbytes, alignment)
    out.write(prologue[: _COUNT.start] + pack("<Q", len(tensors)) + prologue[_COUNT.stop :])
    out.writelines(map(_record, tensors, starts))
    data = padded(out.tell(), alignment)
    if weights:
        for file, group in groupby(zip(tensors, starts, strict=True), key=lambda pair: pair[0].file):
            with LocalFile(folder / file, file) as source:
                for tensor, start in group:
                    out.seek(data + start)
                    out.writelines(_bytes(source, tensor))
    out.truncate(data + end)


def _record(tensor: TensorEntry, start: int) -> bytes:
    name, dimensions = tensor.name.encode(), len(tensor.shape)
    return pack(f"<Q{len(name)}sI{dimensions}QIQ", len(name), name, dimensions, *reversed(tensor.shape), _NUMBERS[tensor.dtype], start)


def _bytes(source: LocalFile, tensor: TensorEntry) -> Iterable[bytes]:
    for done in range(0, tensor.nbytes, _CHUNK):
        yield source.read(tensor.offset + done, min(_CHUNK, tensor.nbytes - done))
