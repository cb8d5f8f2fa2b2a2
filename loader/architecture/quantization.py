"""Quantization found in a checkpoint: by its tensors first, by the config where tensors do not show it.

Packed tensors hold several weights an element, and scales beside them are no weights at all: `weights_in` counts what the model has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..dtypes import BITS
from ..tensors import TensorEntry
from .config_view import Config

_NO_DETAILS: Mapping[str, object] = {}
_MAX_BITS, _MAX_INTEGER = 64, 10**9
# What quantizers store beside the weights.
_AUXILIARY = re.compile(
    r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+|SCB|weight_format|g_idx|qzeros|scales|weight_scale\w*|input_scale|"
    r"k_scale|v_scale|weight_zero_point|weight_shape|activation_scale)$|_scales$|_scale_inv$|\.(weight\.absmax|weight\.quant_map)$"
)
_NF4 = "quant_state.bitsandbytes__nf4"
_FP4 = "quant_state.bitsandbytes__fp4"
# Config keys worth showing, where they hold plain values.
_SHOWN = (
    "bits",
    "group_size",
    "desc_act",
    "sym",
    "zero_point",
    "version",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_compute_dtype",
    "weight_block_size",
    "activation_scheme",
    "fmt",
    "format",
    "nbits",
    "axis",
)


@dataclass(frozen=True)
class Quantization:
    """How weights are stored in fewer bits. `bits` and `group_size` are None where they differ or are not said."""

    method: str
    bits: float | None
    group_size: int | None
    quantized_tensors: int
    quantized_bytes: int
    declared: str | None  # the config's quant_method
    details: Mapping[str, object]


def detect_quantization(config: Config | None, tensors: Mapping[str, TensorEntry]) -> Quantization | None:
    """The quantization in these tensors, or the one that the config declares; None for an ordinary checkpoint."""
    declared = _declared(config)
    method, packed = _by_tensors(tensors, declared)
    named = declared.get("quant_method")
    if method is None and not declared:
        return None
    shown = [key for key in _SHOWN if method != "int8" or not key.startswith("bnb_4bit")]
    details = {key: declared[key] for key in shown if _is_plain(declared.get(key))}
    return Quantization(
        method=method or _method_of(declared),
        bits=_bits(method, declared, packed),
        group_size=_integer(declared, "group_size", "q_group_size"),
        quantized_tensors=len(packed),
        quantized_bytes=sum(tensor.nbytes for tensor in packed),
        declared=named if isinstance(named, str) else None,
        details=details | ({"types": dict(Counter(tensor.dtype for tensor in packed))} if method == "gguf" else {}),
    )


def _declared(config: Config | None) -> Config:
    for section in (config or {}, (config or {}).get("text_config")):
        for key in ("quantization_config", "compression_config"):
            value = section.get(key) if isinstance(section, dict) else None
            if isinstance(value, dict):
                return value
    return _NO_DETAILS


def _by_tensors(tensors: Mapping[str, TensorEntry], declared: Config) -> tuple[str | None, list[TensorEntry]]:
    """The method that the tensors themselves show, and the packed ones among them."""
    names = tensors.keys()
    suffixes = {name.rpartition(".")[2] for name in names}
    if any(tensor.dtype not in BITS for tensor in tensors.values()):
        return "gguf", [tensor for tensor in tensors.values() if tensor.dtype not in BITS]
    for marker, method in ((_NF4, "nf4"), (_FP4, "fp4")):
        packed = [
            tensors[name.removesuffix("." + marker)]
            for name in names
            if name.endswith(marker) and name.removesuffix("." + marker) in tensors
        ]
        if packed:
            return method, packed
    if "SCB" in suffixes:
        return "int8", [tensor for tensor in tensors.values() if tensor.dtype == "I8" and tensor.name.endswith(".weight")]
    if "qweight" in suffixes:
        awq = declared.get("quant_method") == "awq" or (not declared and "g_idx" not in suffixes)
        return "awq" if awq else "gptq", [tensor for name, tensor in tensors.items() if name.endswith(".qweight")]
    if "W_q" in suffixes:
        return "hqq", [tensor for name, tensor in tensors.items() if name.endswith(".W_q")]
    blocks = [
        tensor for name, tensor in tensors.items() if name.endswith("_blocks") and name.removesuffix("_blocks") + "_scales" in tensors
    ]
    if blocks:
        return "mxfp4", blocks
    packed = [tensor for name, tensor in tensors.items() if name.endswith(".weight_packed")]
    if packed:
        return "compressed-tensors", packed
    eight = [
        tensor for tensor in tensors.values() if tensor.dtype.startswith("F8_E") and tensor.dtype != "F8_E8M0" and len(tensor.shape) >= 2
    ]
    return ("fp8", eight) if eight else (None, [])


def _method_of(declared: Config) -> str:
    named = _string(declared, "quant_method", "unknown").lower()
    if named != "bitsandbytes":
        return named
    return "int8" if declared.get("load_in_8bit") is True else _string(declared, "bnb_4bit_quant_type", "nf4")


def _bits(method: str | None, declared: Config, packed: Iterable[TensorEntry]) -> float | None:
    """Bits a weight; for GGUF the average over its quantized tensors, scales included."""
    if method == "gguf":
        weights = sum(tensor.numel for tensor in packed)
        return round(8 * sum(tensor.nbytes for tensor in packed) / weights, 2) if weights else None
    known = {"nf4": 4, "fp4": 4, "mxfp4": 4, "int8": 8, "fp8": 8}.get(method or _method_of(declared))
    found = known if known is not None else _integer(declared, "bits", "nbits", "num_bits", "w_bit")
    return found if found is not None and 0 < found <= _MAX_BITS else None


def _is_plain(value: object) -> bool:
    """Whether a value of the config can be shown as it is: a short word, a number, or a few of them."""
    if isinstance(value, list):
        return len(value) <= 16 and all(_is_number(item) for item in value)
    return _is_number(value) or (isinstance(value, str) and len(value) <= 100)


def _is_number(value: object) -> bool:
    """Whether a value is a number that JSON and a line can hold: not infinite, not of hundreds of digits."""
    return isinstance(value, int | float) and abs(value) <= _MAX_INTEGER


def _string(declared: Config, key: str, default: str) -> str:
    value = declared.get(key)
    return value if isinstance(value, str) else default


def _integer(declared: Config, *keys: str, depth: int = 4) -> int | None:
    """The first of these keys that holds an integer, in the config's sections too (compressed-tensors nests them deeply)."""
    for key in keys:
        if type(value := declared.get(key)) is int and abs(value) <= _MAX_INTEGER:
            return value
    sections = (value for value in declared.values() if isinstance(value, dict)) if depth else ()
    return next((found for section in sections if (found := _integer(section, *keys, depth=depth - 1)) is not None), None)


def weights_in(tensor: TensorEntry, quantization: Quantization | None) -> int:
    """How many of the model's parameters a stored tensor holds: more than its elements if packed, none if it is a scale."""
    if quantization is None or (quantization.method in ("gguf", "fp8") and not _AUXILIARY.search(tensor.name)):
        return tensor.numel
    if _AUXILIARY.search(tensor.name):
        return 0
    bits = quantization.bits
    packed = (
        (quantization.method in ("nf4", "fp4") and tensor.dtype == "U8" and tensor.shape[-1:] == (1,))
        or (quantization.method == "mxfp4" and tensor.name.endswith("_blocks"))
        or tensor.name.endswith((".qweight", ".W_q", ".weight_packed"))
    )
    if not packed or not bits or tensor.dtype not in BITS:
        return tensor.numel
    return int(tensor.numel * (BITS[tensor.dtype] // bits))
