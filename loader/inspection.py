"""`inspect`: everything that the headers tell of a checkpoint, as one report of plain values."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, TypedDict

from .architecture import ArchitectureConfig, Rope, Stack
from .architecture.config_view import ConfigView
from .architecture.experts import Experts, detect_experts
from .architecture.families import declared_tie
from .architecture.kv_cache import KVCache, detect_kv_cache, head_dim, kv_heads
from .architecture.quantization import Parameters, Quantization
from .architecture.structure import modality_of
from .checkpoint import Checkpoint
from .formats import format_of
from .problems import Problem
from .tensors import TensorEntry
from .validation import find_problems

if TYPE_CHECKING:
    from .adapter import Adapter

SCHEMA = "mlload.inspect/1"
_STATE_TEXT = ".quant_state."  # JSON that bitsandbytes keeps as a tensor
_MOST_PARTS = 1_000  # listed one by one; no model has as many

# The files that tokenizers come in, and what each one holds.
_TOKENIZER_FILES = {
    "tokenizer.json": "fast tokenizer",
    "tokenizer.model": "SentencePiece",
    "spiece.model": "SentencePiece",
    "sentencepiece.bpe.model": "SentencePiece",
    "tekken.json": "Tekken",
    "vocab.json": "byte-pair encoding",
    "vocab.txt": "WordPiece",
}


@dataclass(frozen=True, slots=True)
class Amount:
    """Tensors, the model's parameters in them, and the bytes they take on disk."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Component(Amount):
    """A part of the model: `role` is embedding, layers, norm, head, vision, audio or other."""

    name: str
    role: str
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerGroup(Amount):
    """Layers alike that follow one another, numbers `first` to `last`; the amounts are of the first.

    Alike is what holds the same weights in the same way: the few bytes of text that bitsandbytes keeps of each differ in length.
    """

    stack: str
    first: int
    last: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StackSummary:
    """A stack of layers; a `side` one is beside the way from the embedding to the head."""

    prefix: str
    num_layers: int
    role: str
    modality: str
    main: bool
    side: bool


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What is known of the tokenizer without loading it."""

    kind: str
    file: str
    tokenizer_class: str | None


@dataclass(frozen=True, slots=True)
class File:
    """One file, its size in bytes (-1 where the hub does not say), and what it is for."""

    name: str
    bytes: int
    role: str


@dataclass(frozen=True)
class InspectReport:
    """What `inspect` finds. Bytes are bytes on disk; parameters are the model's, also where several are packed in an element."""

    schema: str
    reference: str
    source: str
    location: str
    revision: str | None
    license: str | None
    format: str
    name: str | None
    file_type: str | None
    adapter: Adapter | None
    family: str | None
    architecture: str
    version: str | None
    class_name: str | None
    kind: str | None
    partial: bool  # shards are missing: what is counted is only what is there
    tensors: int
    parameters: int
    active_parameters: int | None
    bytes: int
    by_dtype: dict[str, Amount]
    components: tuple[Component, ...]
    stacks: tuple[StackSummary, ...]
    layers: tuple[LayerGroup, ...]
    embedding: str | None
    norm: str | None
    head: str | None
    hidden_size: int | None
    num_layers: int | None
    num_attention_heads: int | None
    num_key_value_heads: int | None
    head_dim: int | None
    vocab_size: int | None
    context_length: int | None
    rope: Rope | None
    activation: str | None
    norm_type: str | None
    tie_word_embeddings: bool
    ties_stored_head: bool  # the config ties a head that is stored: transformers shares them if they are equal, else it keeps both
    shared_tensors: dict[str, str]
    fused_qkv: bool
    fused_gate_up: bool
    parallel_residual: bool
    experts: Experts | None
    quantization: Quantization | None
    kv_cache: KVCache | None
    tokenizer: Tokenizer | None
    files: tuple[File, ...]
    header_bytes: int
    requests: int | None
    bytes_read: int | None
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, object]:
        """The report as the object that `--json` prints."""
        return asdict(self)


def inspect(reference: str | os.PathLike[str] | Checkpoint, *, file: str | None = None) -> InspectReport:
    """What `reference` holds, from its headers alone: no weights are read, none downloaded.

    `file` chooses one weights file where a folder or repository holds several. Raises what Checkpoint.open raises.
    """
    checkpoint = reference if isinstance(reference, Checkpoint) else Checkpoint.open(reference, file=file)
    view = ConfigView(checkpoint.config)
    architecture, parameters = checkpoint.architecture, checkpoint.parameters
    stored = [tensor for name, tensor in checkpoint.tensors.items() if name not in checkpoint.shared]
    experts = detect_experts(view, stored, parameters)
    problems = find_problems(checkpoint)
    amounts = _Amounts(parameters)
    whole, by_dtype = amounts.of(stored), amounts.by_dtype(stored)
    return InspectReport(
        schema=SCHEMA,
        **_origin(checkpoint),
        name=name if isinstance(name := checkpoint.metadata.get("general.name"), str) else None,  # GGUF's
        file_type=checkpoint.file_type,
        adapter=checkpoint.adapter,
        family=architecture.family,
        architecture=architecture.architecture.value,
        version=architecture.version,
        class_name=architecture.class_name,
        kind=_word(architecture.kind),
        partial=any(problem.code == "missing-shard" for problem in problems),
        tensors=whole.tensors,
        parameters=whole.parameters,
        active_parameters=experts.active_parameters if experts else None,
        bytes=whole.bytes,
        by_dtype=by_dtype,
        components=tuple(amounts.components(architecture, stored)),
        stacks=tuple(_stacks(architecture)),
        layers=tuple(group for stack in architecture.structure.stacks for group in amounts.layers(stack)),
        embedding=architecture.tensor_names.embedding,
        norm=architecture.tensor_names.norm,
        head=architecture.tensor_names.head,
        **_sizes(view, architecture),
        rope=architecture.rope,
        activation=_word(architecture.activation),
        norm_type=_word(architecture.norm_type),
        tie_word_embeddings=architecture.tie_embeddings,
        ties_stored_head=architecture.structure.head is not None and not architecture.tie_embeddings and declared_tie(view) is True,
        shared_tensors=dict(checkpoint.shared),
        fused_qkv=architecture.fused_qkv,
        fused_gate_up=architecture.fused_gate_up,
        parallel_residual=architecture.parallel_residual,
        experts=experts,
        quantization=parameters.quantization,
        kv_cache=detect_kv_cache(view, architecture.structure, architecture.kind, _cache_dtype(checkpoint, by_dtype)),
        tokenizer=_tokenizer(checkpoint),
        files=tuple(File(name, size, _file_role(name, checkpoint)) for name, size in checkpoint.files.items()),
        problems=problems,
    )


def _stacks(architecture: ArchitectureConfig) -> Iterator[StackSummary]:
    for stack in architecture.structure.stacks:
        main = stack is architecture.structure.main
        yield StackSummary(stack.prefix, stack.num_layers, stack.role, stack.modality, main, stack.side)


class _Amounts:
    """Counts over tensors, with packed weights counted as the parameters they stand for."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def of(self, tensors: Iterable[TensorEntry]) -> Amount:
        every = list(tensors)
        return Amount(len(every), sum(map(self._parameters.of, every)), sum(each.nbytes for each in every))

    def by_dtype(self, tensors: Iterable[TensorEntry]) -> dict[str, Amount]:
        """Amounts by dtype, the most bytes first."""
        groups: dict[str, list[TensorEntry]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        return dict(sorted(((dtype, self.of(group)) for dtype, group in groups.items()), key=lambda item: -item[1].bytes))

    def components(self, architecture: ArchitectureConfig, stored: Sequence[TensorEntry]) -> Iterable[Component]:
        """The parts in the order in which data passes them; what stands in no stack under the module it belongs to."""
        structure = architecture.structure
        place = {
            tensor.name: (f"{stack.prefix}.*", "layers")
            for stack in structure.stacks
            for layer in stack.layers.values()
            for tensor in layer.values()
        }
        for tensor in structure.outside:
            place[tensor.name] = _outside_part(tensor, architecture)
        groups: dict[tuple[str, str], list[TensorEntry]] = {}
        for tensor in stored:
            groups.setdefault(place[tensor.name], []).append(tensor)
        order = ("embedding", "vision", "audio", "layers", "norm", "head", "other")
        ordered = sorted(groups.items(), key=lambda item: order.index(item[0][1]))
        if len(ordered) > _MOST_PARTS:
            rest = [tensor for _, group in ordered[_MOST_PARTS:] for tensor in group]
            ordered[_MOST_PARTS:] = [((f"({len(ordered) - _MOST_PARTS:,} more)", "other"), rest)]
        for (name, role), group in ordered:
            amount = self.of(group)
            yield Component(amount.tensors, amount.parameters, amount.bytes, name, role, _dtypes(group))

    def layers(self, stack: Stack) -> Iterable[LayerGroup]:
        """The stack's layers, runs of equal ones folded."""

        def signature(item: tuple[int, tuple[int, Mapping[str, TensorEntry]]]) -> tuple[int, frozenset[tuple[str, str, tuple[int, ...]]]]:
            place, (index, layer) = item
            shapes = ((name, tensor.dtype, () if _STATE_TEXT in name else tensor.shape) for name, tensor in layer.items())
            return index - place, frozenset(shapes)

        for _, run in groupby(enumerate(stack.layers.items()), key=signature):
            group = [layer for _, layer in run]
            first, last, tensors = group[0][0], group[-1][0], group[0][1]
            amount = self.of(tensors.values())
            yield LayerGroup(amount.tensors, amount.parameters, amount.bytes, stack.prefix, first, last, _dtypes(tensors.values()))


class _Origin(TypedDict):
    """Where the checkpoint lies, and what reading it took."""

    reference: str
    source: str
    location: str
    revision: str | None
    license: str | None
    format: str
    header_bytes: int
    requests: int | None
    bytes_read: int | None


def _origin(checkpoint: Checkpoint) -> _Origin:
    return {
        "reference": checkpoint.reference,
        "source": checkpoint.source,
        "location": checkpoint.location,
        "revision": checkpoint.revision,
        "license": checkpoint.license,
        "format": checkpoint.format,
        "header_bytes": checkpoint.header_bytes,
        "requests": checkpoint.requests,
        "bytes_read": checkpoint.bytes_read,
    }


class _Sizes(TypedDict):
    """The sizes that the config tells, or failing that the tensors."""

    hidden_size: int | None
    num_layers: int | None
    num_attention_heads: int | None
    num_key_value_heads: int | None
    head_dim: int | None
    vocab_size: int | None
    context_length: int | None


def _sizes(view: ConfigView, architecture: ArchitectureConfig) -> _Sizes:
    embedding = architecture.structure.embedding
    hidden_size = view.integer("hidden_size") or (embedding.shape[1] if embedding else None)
    return {
        "hidden_size": hidden_size,
        "num_layers": _num_layers(view, architecture.structure.main),
        "num_attention_heads": view.integer("num_attention_heads"),
        "num_key_value_heads": kv_heads(view),
        "head_dim": head_dim(view, hidden_size),
        "vocab_size": view.integer("vocab_size") or (embedding.shape[0] if embedding else None),
        "context_length": view.integer("max_position_embeddings"),
    }


def _word(value: StrEnum | None) -> str | None:
    return None if value is None else value.value


def _num_layers(view: ConfigView, main: Stack | None) -> int | None:
    """The main stack's layers, less those that only predict further tokens."""
    if main is None:
        return None
    declared = view.integer("num_hidden_layers")
    return min(main.num_layers, declared) if declared and view.integer("num_nextn_predict_layers") else main.num_layers


def _dtypes(tensors: Iterable[TensorEntry]) -> tuple[str, ...]:
    """The dtypes, the commonest first."""
    return tuple(dtype for dtype, _ in Counter(tensor.dtype for tensor in tensors).most_common())


def _outside_part(tensor: TensorEntry, architecture: ArchitectureConfig) -> tuple[str, str]:
    """Name and role of the part that a tensor outside the stacks belongs to."""
    structure = architecture.structure
    module = tensor.name.rpartition(".")[0] or tensor.name
    for part, role in ((structure.embedding, "embedding"), (structure.norm, "norm"), (structure.head, "head")):
        if part is not None and module == (part.name.rpartition(".")[0] or part.name):
            return module, role
    modality = modality_of(tensor.name)
    if modality != "text":
        return module.split(".")[0] if module.count(".") < 2 else ".".join(module.split(".")[:2]), modality
    if "emb" in module.lower() or module.endswith(("wpe", "wte")):
        return module, "embedding"
    if module.startswith(("lm_head", "cls", "head")):
        return module.split(".")[0], "head"
    return module, "other"


def _cache_dtype(checkpoint: Checkpoint, by_dtype: dict[str, Amount]) -> str | None:
    """What the cache is kept in when the config does not say: llama.cpp's default for GGUF, else what most ordinary weights have."""
    if checkpoint.format == "gguf":
        return "F16"
    return next((dtype for dtype in by_dtype if dtype in ("F32", "F16", "BF16")), None)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    if "tokenizer.ggml.model" in checkpoint.metadata:
        return Tokenizer(f"{checkpoint.metadata['tokenizer.ggml.model']}, inside the weights file", checkpoint.shards[0], None)
    named = checkpoint.extras.get("tokenizer_config.json", {}).get("tokenizer_class")
    for name, kind in _TOKENIZER_FILES.items():
        if name in checkpoint.files:
            return Tokenizer(kind, name, named if isinstance(named, str) else None)
    return None


def _file_role(name: str, checkpoint: Checkpoint) -> str:
    if name in checkpoint.shards:
        return "weights"
    if name == checkpoint.index:
        return "index"
    if name in _TOKENIZER_FILES or name.startswith(("tokenizer", "special_tokens", "added_tokens", "merges")):
        return "tokenizer"
    if name.endswith("config.json") or name == "params.json":
        return "config"
    if format_of(name.removesuffix(".index.json")):
        return "other weights"
    return "other"
