"""A probe from one end to the other: windows of texts, batches of each, rows to their places, sums for the table."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...loader.errors import MlloadError
from ...loader.execution.solo_threads import solo_threads
from ...loader.writing import replacing, replacing_with, scratch_file
from ..base import BaseModelRunner
from ..encoder_only import EncoderModelRunner
from .background import BackgroundWriter
from .encoding import Encoded, TokenChoice, encode
from .folder import OutputFolder, ShardLine
from .formats.safetensors import read
from .identity import identity
from .record import Kept, Recorder, make_recorder
from .settings import ProbeSettings, default_batch_tokens
from .shard import ShardPlan, write_at
from .statistics import Sums
from .texts import Example
from .windows import Window, batches, windows

_SHARD_BYTES = 1 << 28  # of states, were every character a token
_MOST_CHARACTERS = 1 << 24
_GROWING_TABLES = ("dynamic", "longrope")  # rotary embeddings, as transformers calls them
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


@dataclass
class Progress:
    """How far a job is: called after every batch with the texts that it computed, or found done."""

    heard: Callable[[int], None] = lambda texts: None
    resumed_texts: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"tokenize": 0.0, "compute": 0.0, "write": 0.0})


class ProbeJob:
    """One model, one way to record it; `run` goes over a corpus."""

    def __init__(self, runner: BaseModelRunner, settings: ProbeSettings) -> None:
        self.runner = runner
        self.settings = settings
        self.recorder: Recorder = make_recorder(runner, settings)
        self.tokens = None if settings.tokens is None else TokenChoice(settings.tokens)
        self.max_length = min((each for each in (settings.max_length, runner.max_length) if each is not None), default=None)
        dtype = str(runner.dtype).removeprefix("torch.")
        self.batch_tokens = settings.batch_tokens or default_batch_tokens(dtype, runner.device.type)
        self._at_once = _batches_at_once(runner)
        self.identity = identity(runner, self.recorder, settings, max_length=self.max_length, batch_tokens=self.batch_tokens)

    def windows(self, examples: Iterable[Example]) -> Iterator[Window]:
        """The corpus, cut: a shard stays below a size on the disk, also where every token's states are kept."""
        row = sum(kept.width for kept in self.recorder.kept if kept.maps is None) * self.recorder.rows_dtype.itemsize
        most = _SHARD_BYTES // max(row, 1) if self.recorder.pool == "none" else _MOST_CHARACTERS
        return windows(examples, most_texts=self.settings.texts_per_shard, most_characters=most)

    def run(self, examples: Iterable[Example], folder: OutputFolder | None, progress: Progress) -> list[ShardLine]:
        """Compute, or find done, every window; writes to `folder`, or only sums up without one. Raises MlloadError where it can't write."""
        lines: list[ShardLine] = []
        with _explained(folder), BackgroundWriter() as writer:
            for window in self.windows(examples):
                line = None if folder is None else folder.done(window.number, window.digest)
                if line is None:
                    line = self.run_window(window, folder, writer, progress)
                else:
                    progress.resumed_texts += line.texts
                    progress.heard(line.texts)
                lines.append(line)
        progress.seconds["write"] = writer.seconds_waited
        return lines

    def run_window(self, window: Window, folder: OutputFolder | None, writer: BackgroundWriter, progress: Progress) -> ShardLine:
        """One shard. It is on the disk, and remembered, once `writer` has come so far."""
        start = time.perf_counter()
        texts = encode(self.runner, window.examples, self.tokens, self.max_length)
        progress.seconds["tokenize"] += time.perf_counter() - start
        line = _line("" if folder is None else folder.file_of(window.number).name, window, texts, self.recorder)
        if folder is None:
            for _ in self._recorded(texts, line.sums, progress):
                pass
            return line
        metadata = {"probe": json.dumps(self.identity), "first": str(window.first), "texts": str(line.texts)}
        plan = ShardPlan(self.recorder, texts, metadata)
        shard = _Shard(plan, folder, window.number, writer)
        for kept, numbers, made in self._recorded(texts, line.sums, progress):
            shard.write(kept, numbers, made)
        shard.finish(line)
        return line

    def _recorded(
        self, texts: Sequence[Encoded], sums: Mapping[str, Sums], progress: Progress
    ) -> Iterator[tuple[Kept, Sequence[int], Tensor | list[Tensor]]]:
        """All batches of a window: what each gave for each layer, counted on the way."""
        progress.heard(sum(not text.ids for text in texts))
        start = time.perf_counter()
        for numbers, recorded in self._computed(texts):
            before: dict[str, Tensor] = {}
            for kept, made in recorded:
                if isinstance(made, Tensor):
                    sums[kept.name].add(made, before.get(kept.stack))
                    before[kept.stack] = made
                progress.seconds["compute"] += time.perf_counter() - start
                yield kept, numbers, made
                start = time.perf_counter()
            progress.heard(len(numbers))

    def _computed(self, texts: Sequence[Encoded]) -> Iterator[tuple[Sequence[int], Iterable[tuple[Kept, Tensor | list[Tensor]]]]]:
        """All batches of a window in their order, and what each gave; several are computed at once where the model lets them."""

        def record(numbers: Sequence[int]) -> Iterator[tuple[Kept, Tensor | list[Tensor]]]:
            return self.recorder.record([texts[number] for number in numbers])

        cut = batches([len(text.ids) for text in texts], self.batch_tokens)
        if self._at_once == 1 or len(cut) == 1:
            yield from ((numbers, record(numbers)) for numbers in cut)
            return
        with solo_threads(self._at_once) as pool:
            under_way: deque[tuple[Sequence[int], Future[list[tuple[Kept, Tensor | list[Tensor]]]]]] = deque()
            for numbers in cut:
                under_way.append((numbers, pool.submit(lambda numbers: list(record(numbers)), numbers)))
                if len(under_way) > self._at_once:
                    first, made = under_way.popleft()
                    yield first, made.result()
            for numbers, made in under_way:
                yield numbers, made.result()


def _batches_at_once(runner: BaseModelRunner) -> int:
    """A batch for each core, rather than all cores for each batch: an encoder's steps are so short that cores would wait for each other.

    One where weights come and go, on a device, and for tables of positions that a forward makes anew for its own length.
    """
    if not isinstance(runner, EncoderModelRunner) or runner.device.type != "cpu" or runner.loaded.streamer is not None:
        return 1
    grows = any(getattr(module, "rope_type", None) in _GROWING_TABLES for module in runner.model.modules())
    return 1 if grows else torch.get_num_threads()


@contextmanager
def _explained(folder: OutputFolder | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if folder is None or error.errno not in _DISK_ERRORS:
            raise
        hint = "make room and run it again: it goes on where it stopped"
        raise MlloadError(f"{folder.path} can't be written: {error.strerror}", hint=hint) from None


@contextmanager
def _file_for(path: Path, *, is_final: bool) -> Iterator[tuple[int, Path]]:
    """A file to fill: the one that is to lie at `path`, or one that is gone once it was made into that."""
    if is_final:
        with replacing(path) as descriptor:
            yield descriptor, path
    else:
        with scratch_file(path) as scratch:
            yield scratch


class _Shard:
    """A file that fills in the background, beside the name that it gets once it is whole."""

    def __init__(self, plan: ShardPlan, folder: OutputFolder, number: int, writer: BackgroundWriter) -> None:
        self._plan = plan
        self._folder = folder
        self._number = number
        self._writer = writer
        self._path = folder.file_of(number)
        self._write = folder.format.writer()
        self._held = writer.hold(_file_for(self._path, is_final=self._write is None))
        self._descriptor, self._file = self._held.value
        writer.do(self._begin)

    def write(self, kept: Kept, numbers: Sequence[int], made: Tensor | list[Tensor]) -> None:
        """Have what a batch gave for a layer written."""
        self._writer.do(partial(self._put, self._plan.pieces(kept, numbers, made)))

    def finish(self, line: ShardLine) -> None:
        """Have the file brought to the disk under its name, and remembered."""
        self._writer.do(partial(self._end, line))

    def _begin(self) -> None:
        os.ftruncate(self._descriptor, self._plan.layout.nbytes)
        os.pwrite(self._descriptor, self._plan.layout.header, 0)
        self._put(self._plan.known_pieces())

    def _put(self, pieces: Iterator[tuple[int, Tensor]]) -> None:
        for place, tensor in pieces:
            write_at(self._descriptor, place, tensor)

    def _end(self, line: ShardLine) -> None:
        if self._write is not None:
            with replacing_with(self._path) as path:
                self._write(read(self._file), self._plan.layout.metadata, path)
        self._held.release()
        self._folder.keep(self._number, line)


def _line(file: str, window: Window, texts: Sequence[Encoded], recorder: Recorder) -> ShardLine:
    return ShardLine(
        file=file,
        first=window.first,
        texts=len(texts),
        rows=sum(recorder.rows_of(text) for text in texts),
        tokens=sum(len(text.ids) for text in texts),
        truncated=sum(text.dropped > 0 for text in texts),
        dropped=sum(text.dropped for text in texts),
        empty=sum(not text.ids for text in texts),
        digest=window.digest,
        sums={kept.name: Sums() for kept in recorder.kept if kept.maps is None},
    )
