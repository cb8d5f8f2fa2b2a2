"""How quantizers lay weights out: which tensor holds them, what must stand beside it, and how many weights there are in it.

The shapes of the tensors beside tell the number wherever they can: they hold even where settings differ from module to module. Only
where they do not is the config asked for the bits. A number that neither tells is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from ..dtypes import BITS
from ..tensors import TensorEntry
from .quantization_config import QuantizationConfig

_ORDINARY = frozenset({"F64", "F32", "F16", "BF16", "C64", "BOOL", "I64", "U64"})
_BLOCK_SIZES = (64, 32, 128, 256, 512, 1024, 2048, 4096)  # that bitsandbytes has; 64 unless asked for another


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor of quantized weights: how many it holds, and how many of them share a scale, None where that can't be known."""

    method: str
    tensor: TensorEntry
    weights: int | None
    group_size: int | None = None
    nested: bool = False  # whether the scales are quantized themselves


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor that fits a layout, with what it takes to count its weights."""

    tensor: TensorEntry
    stem: str  # its name less the layout's suffix
    tensors: Mapping[str, TensorEntry]
    config: QuantizationConfig

    def beside(self, *suffixes: str) -> TensorEntry | None:
        """The first of the tensors of these suffixes that is there."""
        return next((found for suffix in suffixes if (found := self.tensors.get(self.stem + suffix)) is not None), None)

    def at(self, bits: float | None) -> int | None:
        """The weights if each takes that many bits."""
        width = BITS[self.tensor.dtype]
        return int(self.tensor.numel * width // bits) if bits and bits <= width else None


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _one_each(place: _Place) -> Packed:
    return Packed("", place.tensor, place.tensor.numel)


def _bitsandbytes(place: _Place) -> Packed:
    """Two weights a byte, whatever type the bytes are kept in (`bnb_4bit_quant_storage`); an absmax for each block."""
    weights, absmax = place.at(4), place.beside(".absmax")
    blocks = absmax.numel if absmax is not None else 0
    size = next((size for size in _BLOCK_SIZES if weights and -(-weights // size) == blocks), None)
    return Packed("", place.tensor, weights, size, nested=place.beside(".nested_absmax") is not None)


def _two_a_byte(place: _Place) -> Packed:
    weights, scales = place.at(4), place.beside("_scales", "_scale")
    return Packed("", place.tensor, weights, weights // scales.numel if weights and scales is not None and scales.numel else None)


def _by_config(place: _Place) -> Packed:
    module = place.stem
    return Packed("", place.tensor, place.at(place.config.bits(module)), place.config.group_size(module))


def _gptq_or_awq(place: _Place) -> Packed:
    """GPTQ packs along the inputs, which g_idx counts; AWQ along the outputs, which the scales count. Else by the config's bits."""
    tensor, index, scales = place.tensor, place.beside(".g_idx"), place.beside(".scales")
    columns = tensor.shape[-1]
    awq = place.config.method == "awq" or (index is None and not place.config)
    if not awq and index is not None and index.numel and index.numel >= tensor.shape[0]:
        return Packed("gptq", tensor, index.numel * columns)
    weights = place.at(place.config.bits(place.stem))
    if awq and weights is None and scales is not None and columns and scales.shape[-1] % columns == 0:
        weights = tensor.numel * (scales.shape[-1] // columns)
    return Packed("awq" if awq else "gptq", tensor, weights)


def _hqq(place: _Place) -> Packed:
    """Weights fill their elements, but for three bits: ten to an int32, the last row padded; there the scales count."""
    bits, size, scale = place.config.bits(place.stem), place.config.group_size(place.stem), place.beside(".scale")
    if place.tensor.dtype != "I32":
        return Packed("", place.tensor, place.at(bits), size)
    return Packed("", place.tensor, scale.numel * size if scale is not None and size and bits == 3 else None, size)


def _aqlm(place: _Place) -> Packed:
    """Codebooks have the shape (codebooks, codes, outputs, inputs): so many codes stand for a block of outputs * inputs."""
    books = place.beside(".codebooks")
    known = books is not None and len(books.shape) == 4 and books.shape[0]
    return Packed("", place.tensor, place.tensor.numel // books.shape[0] * prod(books.shape[2:]) if books is not None and known else None)


def _exl2(place: _Place) -> Packed:
    """Rows of many widths; the permutation of the inputs counts them."""
    order = place.beside(".q_invperm", ".q_perm")
    return Packed("", place.tensor, order.numel * place.tensor.shape[-1] if order is not None else None)


def _exl3(place: _Place) -> Packed:
    """Tiles of 16 by 16 weights: the third dimension holds a tile's bits."""
    return Packed("", place.tensor, prod(place.tensor.shape[:2]) * 256 if len(place.tensor.shape) == 3 else None)


def _compressed(place: _Place) -> Packed:
    """compressed-tensors: by its bits where all groups of the config have the same, else by the group that fits the scales' shape."""
    schemes, scale = place.config.schemes(), place.beside(".weight_scale")
    fitting = {bits for bits, _ in schemes}
    if scale is not None and len(fitting) > 1:
        words, groups = place.tensor.shape[-1], scale.shape[-1]
        fitting = {bits for bits, size in schemes if bits and size and words == -(-int(groups * size * bits) // 32)}
    bits = next(iter(fitting)) if len(fitting) == 1 else None if schemes else place.config.bits()
    return Packed("", place.tensor, place.at(bits), place.config.group_size())


def _quanto(place: _Place) -> Packed:
    bits = place.config.bits() if place.tensor.dtype == "U8" else 8
    return Packed("", place.tensor, place.at(bits))


def _scaled(place: _Place) -> Packed | None:
    """A matrix with scales beside it: what its bytes hold is told by dtype and by the number of scales."""
    tensor, scale = place.tensor, place.beside("_scale", "_scale_inv") or place.tensors.get(place.stem.removesuffix(".weight") + ".scale")
    if "scale" in _leaf(tensor.name):  # the scales themselves, which have a small type too
        return None
    if tensor.dtype.startswith("F8"):  # also without scales
        return Packed("fp8", tensor, tensor.numel)
    if scale is None:
        return None
    group = 2 * tensor.numel // scale.numel if scale.numel else None
    microscaled = {"F8_E4M3": "nvfp4", "F8_E8M0": "mxfp4", "U8": "mxfp4"}.get(scale.dtype)
    if tensor.dtype in ("U8", "I8") and microscaled and group in (16, 32):
        return Packed(microscaled, tensor, 2 * tensor.numel, group)
    if tensor.dtype == "U8" and scale.numel == 1:
        return Packed("bitnet", tensor, 4 * tensor.numel)
    if tensor.dtype == "I8":
        return Packed("int8", tensor, tensor.numel)
    if tensor.dtype == "U8":  # int4 of ModelOpt
        return Packed("int4", tensor, 2 * tensor.numel, group)
    return Packed(place.config.method or "unknown", tensor, place.at(place.config.bits()))


@dataclass(frozen=True, slots=True)
class _Layout:
    """`suffix` ends the packed tensor's name; one of `needs` must stand beside it, put in the suffix's place."""

    method: str  # where the counting does not tell it
    suffix: str
    needs: tuple[str, ...]
    dtypes: frozenset[str]  # empty: any
    count: Callable[[_Place], Packed | None]

    def may_end(self, leaf: str, dtype: str) -> bool:
        """Whether a tensor whose name ends in `leaf` may be the packed one."""
        return ("." + leaf).endswith(self.suffix[max(self.suffix.rfind("."), 0) :]) and (not self.dtypes or dtype in self.dtypes)

    def read(self, tensor: TensorEntry, tensors: Mapping[str, TensorEntry], config: QuantizationConfig) -> Packed | None:
        """What the tensor holds if it is laid out so."""
        if not tensor.name.endswith(self.suffix):
            return None
        place = _Place(tensor, tensor.name.removesuffix(self.suffix), tensors, config)
        if self.needs and place.beside(*self.needs) is None:
            return None
        found = self.count(place)
        return found if found is None or found.method else replace(found, method=self.method)


def _layout(method: str, suffix: str, needs: str, dtypes: str, count: Callable[[_Place], Packed | None]) -> _Layout:
    return _Layout(method, suffix, tuple(needs.split()), frozenset(dtypes.split()), count)


# The first that fits holds.
_LAYOUTS = (
    _layout("nf4", "", ".quant_state.bitsandbytes__nf4", "", _bitsandbytes),
    _layout("fp4", "", ".quant_state.bitsandbytes__fp4", "", _bitsandbytes),
    _layout("int8", ".weight", ".SCB", "I8", _one_each),
    _layout("eetq", ".weight", ".weight_scales", "I8", _one_each),
    _layout("mlx", ".weight", ".scales", "U32", _by_config),
    _layout("", ".qweight", "", "I32", _gptq_or_awq),
    _layout("hqq", ".W_q", "", "", _hqq),
    _layout("aqlm", ".codes", ".codebooks", "", _aqlm),
    _layout("exl2", ".q_weight", "", "I32", _exl2),
    _layout("exl3", ".trellis", ".suh .su", "I16", _exl3),
    _layout("mxfp4", "_blocks", "_scales", "U8", _two_a_byte),
    _layout("compressed-tensors", ".weight_packed", "", "I32", _compressed),
    _layout("nvfp4", "_packed", "_global_scale", "U8", _two_a_byte),
    _layout("mxfp4", "_packed", "_scale", "U8", _two_a_byte),
    _layout("quanto", "._data", "._scale", "", _quanto),
    _layout("quanto", "._data._data", "._scale", "", _quanto),
    _layout("", "", "", "U8 I8 I32 F8_E5M2 F8_E4M3 F8_E5M2FNUZ F8_E4M3FNUZ", _scaled),
)


def find_packed(tensors: Mapping[str, TensorEntry], config: QuantizationConfig) -> Iterator[Packed]:
    """The tensors that hold quantized weights in a layout known here."""
    if all(tensor.dtype in _ORDINARY for tensor in tensors.values()):
        return
    leaves = {_leaf(name) for name in tensors}
    possible = [layout for layout in _LAYOUTS if not layout.needs or any(_leaf(need) in leaves or "." not in need for need in layout.needs)]
    by_ending: dict[tuple[str, str], list[_Layout]] = {}
    for tensor in tensors.values():
        if len(tensor.shape) < 2:
            continue
        ending = _leaf(tensor.name), tensor.dtype
        if ending not in by_ending:
            by_ending[ending] = [layout for layout in possible if layout.may_end(*ending)]
        found = next((found for layout in by_ending[ending] if (found := layout.read(tensor, tensors, config)) is not None), None)
        if found is not None:
            yield found


def find_unknown(tensors: Mapping[str, TensorEntry], config: QuantizationConfig) -> Iterator[Packed]:
    """Matrices of the types that weights are packed in, for a config that speaks of a layout that is not known here."""
    for tensor in tensors.values():
        matrix = len(tensor.shape) > 1 and tensor.shape[0] > 1  # not a mask, nor a table of positions
        if matrix and tensor.dtype not in _ORDINARY and not re.search(r"bias$|scales?$", tensor.name):
            yield Packed(config.method or "unknown", tensor, None)
