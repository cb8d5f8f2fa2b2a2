"""A plan as it will be, from headers alone: what each stored tensor becomes in the model, and what that takes.

`loader.plan` makes the real one, of transformers' own classes. Here their conventions are told from names and shapes: matrices in layers
are linear, experts that are stored one by one lie side by side in memory, a table that is looked up is no matrix to multiply by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

from ...configs import table
from ..architecture import Structure
from ..architecture.config_view import ConfigView
from ..architecture.experts import is_routed
from ..checkpoint import Checkpoint
from ..dtypes import BITS, TORCH_NAMES
from ..plan import UnitNames
from ..quantization.sizes import (
    HQQ_SEARCH_WORTH_COMPILING,
    four_bit_bytes,
    hqq_bytes,
    hqq_quantizing_bytes,
    int8_bytes,
    is_in_hqq_groups,
)
from ..settings import QuantizationConfig, QuantizationMethod
from ..tensors import TensorEntry

FLOATS = ("F64", "F32", "F16", "BF16")
_EXPERT = re.compile(r"(?P<experts>.*(?<!shared_)experts)\.(?P<number>\d+)\.(?P<rest>.+)")
_BESIDE_ANOTHER = re.compile(r"(?:gate|up)_proj|w[13]|linear_(?:1|v)")  # transformers keeps the two side by side
_LOOKED_UP = re.compile(r"embed(?!\w*(out|proj|hidden))|\bwpe\b|\bwte\b|relative_attention_bias|position|token_type|norm")
_ROUTER = re.compile(r"(gate|router|classifier|wg)\.weight$")
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$|masked_bias$|position_ids$|\.(attn|attention)\.bias$")


@dataclass(frozen=True, slots=True)
class Part:
    """What becomes one tensor of the model: one stored tensor, or `is_stack`, several side by side in memory of their own.

    `is_linear`: it is multiplied by, so that it can be quantized. `is_exact`: it becomes float32 where float16 is asked, and is never
    quantized. `is_routed`: of experts, of which a token meets some.
    """

    unit: str
    name: str
    shape: tuple[int, ...]
    numel: int
    dtype: str
    source_bytes: int
    is_linear: bool = False
    is_stack: bool = False
    is_one_piece: bool = True
    is_exact: bool = False
    is_routed: bool = False


@dataclass(frozen=True, slots=True)
class StepSketch:
    """A part in a precision: bytes read, left, taken meanwhile, as a `plan.Step` tells them; and its weights where it is quantized."""

    unit: str
    source_bytes: int
    target_bytes: int
    transient_bytes: int
    is_view: bool
    quantized_weights: int = 0
    is_stack: bool = False

    @property
    def passing_bytes(self) -> int:
        """Bytes that are read as pages of the file and given back."""
        return 0 if self.is_view or self.is_stack else self.source_bytes


@dataclass(frozen=True, slots=True)
class UnitSketch:
    """The embedding, a layer, the final norm, the head."""

    name: str
    steps: tuple[StepSketch, ...]

    @property
    def target_bytes(self) -> int:
        """Bytes of the model's tensors."""
        return sum(step.target_bytes for step in self.steps)


@dataclass(frozen=True)
class PlanSketch:
    """What `memory.predict` wants to know of a plan."""

    units: tuple[UnitSketch, ...]
    weights: int = 0  # of all its tensors

    @property
    def steps(self) -> Iterator[StepSketch]:
        """All steps, in the order of units."""
        return (step for unit in self.units for step in unit.steps)

    @cached_property
    def source_bytes(self) -> int:
        """Bytes of weights that are read."""
        return sum(step.source_bytes for step in self.steps)

    @cached_property
    def target_bytes(self) -> int:
        """Bytes of the model's weights once loaded."""
        return sum(unit.target_bytes for unit in self.units)

    @cached_property
    def quantized_weights(self) -> int:
        """How many weights are quantized while loading."""
        return sum(step.quantized_weights for step in self.steps)


def parts_of(checkpoint: Checkpoint) -> tuple[Part, ...]:
    """What the model's tensors will be made of."""
    view, structure = ConfigView(checkpoint.config), checkpoint.architecture.structure
    unit_of = UnitNames(stack.prefix for stack in structure.stacks)
    maker = _PartMaker(checkpoint, view, structure, unit_of)
    stacks: dict[tuple[str, str], list[TensorEntry]] = {}
    parts: list[Part] = []
    for entry in checkpoint.tensors.values():
        if maker.is_left_out(entry):
            continue
        found = _EXPERT.fullmatch(entry.name) if maker.stacks_experts and "experts." in entry.name else None
        if found is None:
            parts.append(maker.part(entry))
        else:
            rest = _BESIDE_ANOTHER.sub("gate_up", found["rest"])
            stacks.setdefault((found["experts"], rest), []).append(entry)
    parts += (maker.stack(f"{experts}.{rest}", entries) for (experts, rest), entries in stacks.items())
    return tuple(sorted(parts, key=lambda part: maker.place(part.unit)))


class _PartMaker:
    """Tells linear matrices from all else by what is known of the whole model."""

    def __init__(self, checkpoint: Checkpoint, view: ConfigView, structure: Structure, unit_of: UnitNames) -> None:
        facts, family = table("peculiarities"), (view.model_type, view.text_type)
        self.is_quantized = checkpoint.quantization is not None
        self.stacks_experts = not self.is_quantized and not set(family) & set(facts["separate_experts"])
        self._shared = checkpoint.shared
        self._exact = [re.compile(words) for key, words in facts["exact_in_float16"].items() if key in family]
        self._unit_of = unit_of
        self._experts = view.integer("num_experts")
        self._inside = tuple(f"{stack.prefix}." for stack in structure.stacks)
        self._first = unit_of(structure.embedding.name) if structure.embedding else None
        self._apart = {each.name for each in (structure.embedding, structure.head) if each is not None}
        self._beyond = _layers_beyond(view, structure)

    def place(self, unit: str) -> tuple[object, ...]:
        """Where the model's own order has a unit, which is not that of files: the embedding, layers by their numbers, what comes after."""
        rank = 0 if unit == self._first else 1 if unit.startswith(self._inside) else 2
        return rank, *((0, int(word), "") if word.isdecimal() else (1, 0, word) for word in unit.split("."))

    def is_left_out(self, entry: TensorEntry) -> bool:
        """Whether the model has no tensor of its own for it."""
        if entry.name in self._shared or entry.name.startswith(self._beyond):
            return True
        return _COMPUTED.search(entry.name) is not None and entry.dtype not in ("BF16", "F16")

    def part(self, entry: TensorEntry) -> Part:
        """The part that a tensor becomes alone."""
        exact = any(words.search(entry.name) for words in self._exact)
        linear, unit = self._is_linear(entry) and not exact, self._unit_of(entry.name)
        return Part(
            unit,
            entry.name,
            entry.shape,
            entry.numel,
            entry.dtype,
            entry.nbytes,
            linear,
            is_one_piece=entry.is_one_piece,
            is_exact=exact,
            is_routed=self._experts is not None and is_routed(entry, self._experts),
        )

    def stack(self, name: str, entries: list[TensorEntry]) -> Part:
        """The part that experts' tensors become together."""
        first, numel = entries[0], sum(entry.numel for entry in entries)
        nbytes = sum(entry.nbytes for entry in entries)
        return Part(
            self._unit_of(first.name), name, (len(entries), *first.shape), numel, first.dtype, nbytes, is_stack=True, is_routed=True
        )

    def _is_linear(self, entry: TensorEntry) -> bool:
        name = entry.name
        if self.is_quantized or len(entry.shape) != 2 or not name.endswith(".weight") or entry.dtype not in FLOATS or name in self._apart:
            return False
        if self._experts and entry.shape[0] == self._experts and _ROUTER.search(name):
            return False
        return _LOOKED_UP.search(name.removesuffix(".weight").rpartition(".")[2]) is None


def _layers_beyond(view: ConfigView, structure: Structure) -> tuple[str, ...]:
    """What layers begin with that only predict further tokens: the model's class leaves them out."""
    main, declared = structure.main, view.integer("num_hidden_layers")
    if main is None or not declared or not view.integer("num_nextn_predict_layers"):
        return ()
    return tuple(f"{main.prefix}.{index}." for index in main.layers if index >= declared)


def sketch(parts: tuple[Part, ...], dtype: str, quantization: QuantizationConfig | None = None) -> PlanSketch:
    """The plan for `parts` in `dtype` (as torch names it), linear ones quantized as is asked."""
    stored = TORCH_NAMES[dtype]
    if any(part.dtype not in BITS for part in parts):
        return _dequantized(parts, stored)
    weights = sum(part.numel for part in parts if part.is_linear)
    is_compiled = weights >= HQQ_SEARCH_WORTH_COMPILING and find_spec("numba") is not None
    units: dict[str, list[StepSketch]] = {}
    for part in parts:
        units.setdefault(part.unit, []).append(_step(part, stored, quantization, is_compiled=is_compiled))
    whole = sum(part.numel for part in parts)
    return PlanSketch(tuple(UnitSketch(name, tuple(steps)) for name, steps in units.items()), whole)


def _dequantized(parts: tuple[Part, ...], dtype: str) -> PlanSketch:
    """GGUF: transformers makes all weights at once, which are there a second time until they are in their places."""
    nbytes = sum(part.numel for part in parts) * BITS[dtype] // 8
    step = StepSketch("all weights", sum(part.source_bytes for part in parts), nbytes, nbytes, False)
    return PlanSketch((UnitSketch(step.unit, (step,)),))


def _step(part: Part, dtype: str, asked: QuantizationConfig | None, *, is_compiled: bool) -> StepSketch:
    dtype = part.dtype if part.dtype not in FLOATS else "F32" if part.is_exact and dtype == "F16" else dtype
    target = part.numel * BITS[dtype] // 8 if dtype in BITS else part.source_bytes
    quantized = quantized_bytes(part, asked, width=BITS.get(dtype, 16) // 8)
    if asked is not None and quantized is not None:
        searching = 0
        if asked.method is QuantizationMethod.HQQ:
            bits, size = asked.bits or 4, asked.group_size or 64
            searching = hqq_quantizing_bytes(part.numel, bits=bits, group_size=size, is_compiled=is_compiled)
        return StepSketch(part.unit, part.source_bytes, quantized, max(target, searching), False, part.numel)
    is_view = part.dtype == dtype and not part.is_stack and part.is_one_piece
    return StepSketch(part.unit, part.source_bytes, target, 0, is_view, is_stack=part.is_stack)


def quantized_bytes(part: Part, asked: QuantizationConfig | None, *, width: int) -> int | None:
    """What a part takes quantized, beside a dtype of `width` bytes; None where it stays as it is."""
    if asked is None or not part.is_linear or any(_is_within(part.name, name) for name in asked.skip_modules):
        return None
    if asked.method is QuantizationMethod.BNB_INT8:
        return int8_bytes(*part.shape)
    if asked.method in (QuantizationMethod.BNB_NF4, QuantizationMethod.BNB_FP4):
        return four_bit_bytes(part.numel, double_quant=asked.double_quant)
    bits, size = asked.bits or 4, asked.group_size or 64
    if asked.method is QuantizationMethod.HQQ and is_in_hqq_groups(part.numel, bits=bits, group_size=size, axis=asked.axis):
        return hqq_bytes(part.numel, bits=bits, group_size=size, width=width)
    return None


def _is_within(tensor: str, module: str) -> bool:
    path = tensor.rpartition(".")[0]
    return path.endswith(module) or path.startswith(f"{module}.")
