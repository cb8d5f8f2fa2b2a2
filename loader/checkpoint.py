"""A checkpoint, known completely from its headers: config, tensor table, files, and what is wrong with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidCheckpointError, NotFoundError, UsageError
from .formats import Format, format_of
from .layout import find_layout, is_read_in_series, layout_problems, likely_shards, matching_layout, shards_of_index
from .problems import Problem, first_few
from .reference import HubReference, LocalReference, is_registered, parse_reference
from .sources import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, ByteSource, CheckpointSource
from .sources.hub_cache import snapshot_in
from .sources.local import LocalFolder
from .sources.parallel import Ahead, map_parallel
from .strict_json import parse_object
from .tensors import FileHeader, TensorEntry, shared_tensors

if TYPE_CHECKING:
    from .adapter import Adapter
    from .architecture import ArchitectureConfig
    from .architecture.quantization import Parameters, Quantization

_MAX_TENSORS = 250_000  # in all shards
_GUESSED_HEADER_BYTES = 48 * 1024  # of a hub file of which no index tells; most single files have less
_RECORD_BYTES = 84  # of a safetensors header for one tensor, less its name
_OPTIONAL_FILES = ("tokenizer_config.json",)

HeaderReader = Callable[[Format, ByteSource], FileHeader]


@dataclass(frozen=True, slots=True)
class HeaderReading:
    """How the headers in a folder on this machine are read: by what, and of which files (a regular expression finds them by name)."""

    read_header: HeaderReader = Format.read_header
    shard_pattern: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, read without a byte of its weights.

    `tensors` maps each tensor's name to its entry, in the order of files and offsets. `config` is config.json as it stands (without
    one, what GGUF's metadata or Meta's params.json say under the same keys); None where there is none.
    """

    reference: str
    source: str  # where it was read: folder, file, cache or hub
    location: str
    revision: str | None
    license: str | None
    format: str
    shards: tuple[str, ...]
    index: str | None
    files: Mapping[str, int]
    config: Mapping[str, object] | None
    adapter: Adapter | None  # what its own config says where these are an adapter's weights
    extras: Mapping[str, Mapping[str, object]]  # tokenizer_config.json, where it lies on this machine
    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorEntry]
    weight_map: Mapping[str, str]  # of the index: each tensor's shard; empty without one
    total_size: object  # what the index says of all tensors' bytes; None where it is silent
    reading_problems: tuple[Problem, ...]  # met while reading; validation.find_problems adds what spans files
    header_bytes: int
    requests: int | None  # HTTP requests made, None for what lies on this machine
    bytes_read: int | None

    @classmethod
    def open(cls, reference: str | os.PathLike[str], *, file: str | None = None, reading: HeaderReading | None = None) -> Checkpoint:
        """Read the headers of `reference`: a folder, a weights file, a registry name, or a hub id with optional `@revision`.

        `file` chooses one weights file where a folder or repository holds several; `reading` is for what lies on this machine. Raises
        NotFoundError, AccessDeniedError, NetworkError, InvalidCheckpointError or UsageError; what is merely wrong or odd is found by
        `validation.find_problems`.
        """
        parsed = parse_reference(reference)
        if reading is not None and isinstance(parsed, LocalReference):
            return _read_local(os.fspath(reference), parsed.path, file, reading)
        if reading is not None and reading.shard_pattern is not None:
            raise UsageError("weight files are chosen by a pattern in a folder only", hint="download the model, and name its folder")
        return cls.begin(reference, file=file)()

    @classmethod
    def begin(cls, reference: str | os.PathLike[str], *, file: str | None = None) -> Callable[[], Checkpoint]:
        """As `open`, but what is on a hub is read in the background: the function returned waits for it."""
        parsed = parse_reference(reference)
        if isinstance(parsed, LocalReference):
            return lambda: _read_local(os.fspath(reference), parsed.path, file, HeaderReading())
        from .sources.hub import open_hub  # imports huggingface_hub, which local paths do without

        def read(repository: HubReference) -> Checkpoint:
            chosen = file or repository.file
            source = open_hub(repository, chosen)
            try:
                return _Reading(os.fspath(reference), source, chosen).checkpoint()
            finally:
                source.close()

        reading = Ahead(read, workers=1)
        reading.announce([parsed])
        return lambda: reading.result(parsed)

    @cached_property
    def architecture(self) -> ArchitectureConfig:
        """What model this is, from config and tensor names."""
        from .architecture import ArchitectureConfig

        return ArchitectureConfig.from_tensors(self.config, self.tensors)

    @property
    def file_type(self) -> str | None:
        """What most tensors of a GGUF file are quantized to, as it says itself."""
        if self.format != "gguf":
            return None
        from .formats.gguf_config import file_type

        return file_type(self.metadata)

    @cached_property
    def shared(self) -> Mapping[str, str]:
        """Names of tensors that lie in the bytes of another one, and that one's name."""
        return shared_tensors(self.tensors.values())

    @property
    def quantization(self) -> Quantization | None:
        """How its weights are quantized, if they are."""
        return self.parameters.quantization

    @cached_property
    def parameters(self) -> Parameters:
        """How many of the model's parameters each tensor holds."""
        from .architecture.quantization import count_parameters

        return count_parameters(self.config, self.tensors)


def _read_local(reference: str, path: Path, file: str | None, reading: HeaderReading) -> Checkpoint:
    """A folder, a folder of the hub's cache, or a weights file (or index) that was named itself."""
    if path.is_dir():
        return _read_folder(reference, path, file, reading)
    if path.name.endswith(".index.json"):
        return _Reading(reference, LocalFolder(path.parent, kind="file"), path.name, reading).checkpoint()
    if format_of(path.name) is None:
        hint = "name the folder of the model, or a .safetensors, .gguf or .bin file"
        raise NotFoundError(f"{path} is not a folder, and no weights file that mlload reads", hint=hint)
    only = None if is_read_in_series(path.name) else path.name
    return _Reading(reference, LocalFolder(path.parent, kind="file", only=only), path.name, reading).checkpoint()


def _read_folder(reference: str, path: Path, file: str | None, reading: HeaderReading) -> Checkpoint:
    snapshot = snapshot_in(path)
    source = LocalFolder(path) if snapshot is None else LocalFolder(snapshot, kind="cache", revision=snapshot.name)
    try:
        return _Reading(reference, source, file, reading).checkpoint()
    except NotFoundError as error:
        if is_registered(reference) and path == Path(reference):
            raise NotFoundError(error.message, hint=f"this folder hides the model that is registered as '{reference}'") from None
        raise


class _Reading:
    """One reading of a checkpoint: what has been read so far, and the problems met on the way."""

    def __init__(self, reference: str, source: CheckpointSource, file: str | None, reading: HeaderReading | None = None) -> None:
        self.reference = reference
        self.source = source
        self.reading = reading or HeaderReading()
        if file is None and "model_index.json" in source.files:
            self._refuse_pipeline("model_index.json")
        if self.reading.shard_pattern is None:
            self.layout, self.beside = find_layout(source.files, location=source.location, file=file)
        else:
            self.layout, self.beside = matching_layout(source.files, self.reading.shard_pattern, location=source.location), ()
        self.folder = (self.layout.index or self.layout.shards[0]).rpartition("/")[0]  # below the source's own, or empty
        self.problems = list(source.problems)

    def checkpoint(self) -> Checkpoint:
        """Everything, in the order that needs the fewest round trips."""
        self.source.announce(likely_shards(self.layout, self.source.files))
        config = self._read_config("config.json")
        weight_map, total_size = self._read_index()
        self.problems.extend(layout_problems(self.layout, self.beside, weight_map))
        shards = self._present(tuple(sorted(set(weight_map.values()))) if weight_map else self.layout.shards)
        headers, extras = self._read_headers(shards, weight_map)
        for shard, header in zip(shards, headers, strict=True):
            self.problems.extend(_pickle_problems(shard, header.metadata))
        tensors = self._merge(headers)
        metadata = {key: value for header in reversed(headers) for key, value in header.metadata.items()}
        return Checkpoint(
            reference=self.reference,
            source=self.source.kind,
            location=self.source.location,
            revision=self.source.revision,
            license=self.source.license or _text(metadata.get("general.license")),  # where GGUF keeps it
            format=self.layout.format.name,
            shards=shards,
            index=self.layout.index,
            files=self.source.files,
            config=self._config_elsewhere(metadata, tensors) if config is None else config,
            adapter=self._read_adapter(),
            extras=extras,
            metadata=metadata,
            tensors=tensors,
            weight_map=weight_map,
            total_size=total_size,
            reading_problems=tuple(self.problems),
            header_bytes=sum(header.header_bytes for header in headers),
            requests=getattr(self.source, "requests", None),
            bytes_read=getattr(self.source, "bytes_read", None),
        )

    def _read_config(self, name: str) -> dict[str, object] | None:
        """A small JSON file beside the weights."""
        return self._read_json(f"{self.folder}/{name}" if self.folder else name, MAX_CONFIG_BYTES)

    def _refuse_pipeline(self, name: str) -> None:
        from .pipeline import refuse_pipeline

        index = self._read_json(name, MAX_CONFIG_BYTES) or {}
        refuse_pipeline(index, location=self.source.location, files=self.source.files)

    def _read_adapter(self) -> Adapter | None:
        """What an adapter's own config says, where the weights are an adapter's."""
        config = self._read_config("adapter_config.json") if self.layout.is_adapter else None
        if config is None:
            return None
        from .adapter import Adapter

        return Adapter.from_config(config)

    def _config_elsewhere(self, metadata: Mapping[str, object], tensors: Mapping[str, TensorEntry]) -> dict[str, object] | None:
        """What stands in for config.json where there is none: a GGUF file's metadata, or params.json of Meta and Mistral."""
        if self.layout.format.name == "gguf":
            from .formats.gguf_config import config_from_metadata

            return config_from_metadata(metadata)
        params = self._read_config("params.json") if self.layout.is_original else None
        if params is None:
            return None
        from .meta_parts import config_from_params

        return config_from_params(params, tensors)

    def _read_json(self, name: str, limit: int, *, unique_keys: bool = False) -> dict[str, object] | None:
        data = self.source.read_file(name, limit=limit)
        return None if data is None else parse_object(data, file=name, unique_keys=unique_keys)

    def _read_index(self) -> tuple[dict[str, str], object]:
        """The index's weight_map and total_size; both empty where no index is."""
        if self.layout.index is None:
            return {}, None
        index = self._read_json(self.layout.index, MAX_INDEX_BYTES, unique_keys=True) or {}
        metadata = index.get("metadata")
        total_size = metadata.get("total_size") if isinstance(metadata, dict) else None
        weight_map = shards_of_index(index.get("weight_map"), index=self.layout.index)
        if self.folder:
            weight_map = {name: f"{self.folder}/{shard}" for name, shard in weight_map.items()}
        return weight_map, total_size

    def _present(self, shards: tuple[str, ...]) -> tuple[str, ...]:
        """The shards that are there; a missing one is a problem, and all of them missing an error."""
        present = tuple(name for name in shards if name in self.source.files)
        missing = (name for name in shards if name not in self.source.files)
        message = "the index lists this shard, but it is not there"
        self.problems.extend(first_few(Problem("error", "missing-shard", message, file=name) for name in missing))
        if not present:
            raise NotFoundError(
                f"{self.source.location}: none of the {len(shards)} shards of {self.layout.index} is there", hint="download the model again"
            )
        return present

    def _read_headers(
        self, shards: tuple[str, ...], weight_map: Mapping[str, str]
    ) -> tuple[list[FileHeader], dict[str, Mapping[str, object]]]:
        """All shards' headers, and the small optional files beside them, read at once."""
        ahead = _guess_header_bytes(weight_map)
        extras = [name for name in _OPTIONAL_FILES if self._is_worth_reading(name)]
        counts: list[int] = []

        def read(name: str) -> FileHeader | dict[str, object]:
            if name in extras:
                return self._read_json(name, MAX_CONFIG_BYTES) or {}
            with self.source.open(name, ahead=ahead.get(name, _GUESSED_HEADER_BYTES)) as file:
                header = self.reading.read_header(self.layout.format, file)
            counts.append(len(header.tensors))
            if sum(counts) > _MAX_TENSORS:
                raise InvalidCheckpointError(f"brings the checkpoint to more than {_MAX_TENSORS:,} tensors", file=name)
            return header

        results = map_parallel(read, [*shards, *extras], workers=self.source.parallel_reads)
        headers = [result for result in results if isinstance(result, FileHeader)]
        return headers, {name: result for name, result in zip(extras, results[len(shards) :], strict=True) if isinstance(result, dict)}

    def _is_worth_reading(self, name: str) -> bool:
        # On a hub it would cost a round trip more than the headers do.
        return self.source.kind != "hub" and self.source.files.get(name, 0) > 0

    def _merge(self, headers: list[FileHeader]) -> dict[str, TensorEntry]:
        """One table of all shards' tensors. A name in two shards, unless they hold slices, is a problem; the first one counts."""
        if self.layout.is_sliced:
            from .meta_parts import join_parts

            joined, problems = join_parts(headers)
            self.problems.extend(problems)
            return joined
        tensors: dict[str, TensorEntry] = {}
        again: list[Problem] = []
        for header in headers:
            for tensor in header.tensors:
                known = tensors.setdefault(tensor.name, tensor)
                if known is not tensor:
                    again.append(Problem("error", "duplicate-tensor", f"also stands in {known.file}", file=tensor.file, tensor=tensor.name))
        self.problems.extend(first_few(again))
        return tensors


def _pickle_problems(shard: str, metadata: Mapping[str, object]) -> Iterator[Problem]:
    """A pickle that names anything but tensors would run it when unpickled; tensors inside foreign objects are not in the table."""
    names, hidden = metadata.get("pickle_globals"), metadata.get("hidden_tensors")
    if isinstance(names, tuple) and names:
        message = f"the pickle names {', '.join(map(str, names[:4]))}: unpickling it would run code; mlload has not"
        yield Problem("warning", "pickle-code", message, file=shard)
    if isinstance(hidden, int) and hidden:
        yield Problem("warning", "hidden-tensors", f"{hidden:,} tensors lie inside objects that are not looked into", file=shard)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _guess_header_bytes(weight_map: Mapping[str, str]) -> dict[str, int]:
    """For each shard, about how long its header is: the names are known from the index, and a record beside them has one length."""
    names: Counter[str] = Counter()
    for name, shard in weight_map.items():
        names[shard] += len(name) + _RECORD_BYTES
    return {shard: count + 256 for shard, count in names.items()}
