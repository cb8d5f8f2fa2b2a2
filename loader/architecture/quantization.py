"""Quantization found in a checkpoint: by its tensors first, by the config where tensors do not show it.

Packed tensors hold several weights an element, and scales beside them are no weights at all: `Parameters` counts what the model has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..dtypes import BITS
from ..tensors import TensorEntry
from .config_view import Config
from .packing import Packed, find_packed, find_unknown
from .quantization_config import QuantizationConfig

# What quantizers store elsewhere than in the module of the packed weights: scales of activations and of the cache, of quanto's tensors.
_AUXILIARY = re.compile(
    r"\.(qzeros|weight_scale\w*|weight_zero_point|weight_shape|(input|output|activation|[kqv])_(global_)?scale|[kv]_zero_point|weight\._(scale|shift))$"
    r"|_scales$|_scale_inv$"
)
_BITS = {"nf4": 4, "fp4": 4, "mxfp4": 4, "nvfp4": 4, "int4": 4, "bitnet": 2, "int8": 8, "eetq": 8, "fp8": 8}


@dataclass(frozen=True)
class Quantization:
    """How weights are stored in fewer bits. `bits` is an average where they differ, None where they aren't known."""

    method: str
    bits: float | None
    group_size: int | None
    quantized_tensors: int
    quantized_bytes: int
    counted_as_stored: int  # of these tensors: what they hold can't be known from headers, so that their elements are counted
    declared: str | None  # the config's quant_method
    details: Mapping[str, object]


@dataclass(frozen=True)
class Parameters:
    """How many of the model's parameters each stored tensor holds, and the quantization that makes the number differ from its elements."""

    quantization: Quantization | None = None
    _packed: Mapping[str, int] = field(default_factory=dict)
    _modules: frozenset[str] = frozenset()  # that hold a packed tensor
    at_load: bool = False  # the config quantizes ordinary weights each time they are loaded

    def of(self, tensor: TensorEntry) -> int:
        """More than its elements if packed, none if it is a scale."""
        if self.quantization is None:
            return tensor.numel
        packed = self._packed.get(tensor.name)
        if packed is not None:
            return packed
        return 0 if self._is_auxiliary(tensor.name) else tensor.numel

    def _is_auxiliary(self, name: str) -> bool:
        """Whatever stands in the module or under the name of a packed tensor, but for a bias; and scales elsewhere."""
        module, _, leaf = name.rpartition(".")
        if leaf.endswith("bias"):
            return False
        inside = module in self._modules or module in self._packed or module.rpartition(".")[0] in self._packed
        return inside or _AUXILIARY.search(name) is not None


def count_parameters(config: Config | None, tensors: Mapping[str, TensorEntry]) -> Parameters:
    """The quantization in these tensors, or the one that the config declares, and what it means for their numbers of parameters."""
    declared = QuantizationConfig(config)
    if any(tensor.dtype not in BITS for tensor in tensors.values()):
        return Parameters(_in_blocks(declared, [tensor for tensor in tensors.values() if tensor.dtype not in BITS]))
    packed = list(find_packed(tensors, declared))
    if not packed and not declared:
        return Parameters()
    counts = {each.tensor.name: each.tensor.numel if each.weights is None else each.weights for each in packed}
    modules = frozenset(each.tensor.name.rpartition(".")[0] for each in packed) - {""}
    found = _quantization(declared, packed or list(find_unknown(tensors, declared)))
    return Parameters(found, counts, modules, at_load=declared.is_at_load)


def _quantization(declared: QuantizationConfig, packed: Sequence[Packed]) -> Quantization:
    sizes: Counter[str] = Counter()
    for each in packed:
        sizes[each.method] += each.tensor.nbytes
    method = sizes.most_common(1)[0][0] if packed else declared.method or "unknown"
    double = method in ("nf4", "fp4") and any(each.nested for each in packed)
    return Quantization(
        method=method,
        bits=_bits(method, declared, packed),
        group_size=declared.group_size() or next((each.group_size for each in packed if each.group_size), None),
        quantized_tensors=len(packed),
        quantized_bytes=sum(each.tensor.nbytes for each in packed),
        counted_as_stored=sum(each.weights is None for each in packed),
        declared=declared.method,
        details=declared.details(method) | ({"double_quantization": True} if double else {}),
    )


def _bits(method: str, declared: QuantizationConfig, packed: Sequence[Packed]) -> float | None:
    known, general = [each for each in packed if each.weights], _BITS.get(method)
    if len({each.method for each in packed}) <= 1 and general is not None:
        return general
    weights = sum(each.weights or 0 for each in known)
    average = round(8 * sum(each.tensor.nbytes for each in known) / weights, 2) if weights else None
    said = declared.bits()
    padded = method == "hqq" and said is not None and average is not None and said <= average <= said * 1.1  # three bits, ten to a word
    return said if average is None or padded else average


def _in_blocks(declared: QuantizationConfig, packed: Sequence[TensorEntry]) -> Quantization:
    """GGUF: every weight is counted in the shape; the bits are an average that has the scales in it."""
    weights, nbytes = sum(tensor.numel for tensor in packed), sum(tensor.nbytes for tensor in packed)
    bits = round(8 * nbytes / weights, 2) if weights else None
    details = declared.details("gguf") | {"types": dict(Counter(tensor.dtype for tensor in packed))}
    return Quantization("gguf", bits, declared.group_size(), len(packed), nbytes, 0, declared.method, details)
