"""bitsandbytes' parameters as transformers' own quantizers make them while loading, from float weights and on the CPU.

The model must be one in which transformers' quantizer has put bitsandbytes' layers (`preprocess_model`): their parameters on the meta
device carry the settings.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import cpu_packing, four_bit, int8, sizes
from .compiled import compiled, is_worth_compiling
from .pieces import Allocate, fresh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bitsandbytes.nn.modules import Int8Params, Params4bit

_PACKED = "packed_for_cpu"  # the part that tells of a weight as `packed_parts` gives it: whether its scales were quantized, and its shape


def is_quantized(module: nn.Module) -> bool:
    """Whether the module's weight is to be quantized by `quantized_weight`."""
    if "bitsandbytes" not in sys.modules:  # then no module can be one of its
        return False
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    return isinstance(module, Linear4bit | Linear8bitLt)


def quantized_bytes(module: Any) -> int:
    """What the weight of a bitsandbytes layer takes once it is quantized: its codes, their scales, the table of what codes stand for."""
    from bitsandbytes.nn.modules import Params4bit

    outputs, inputs, weight = module.out_features, module.in_features, module.weight
    if not isinstance(weight, Params4bit):
        return sizes.int8_bytes(outputs, inputs)
    return sizes.four_bit_bytes(outputs * inputs, blocksize=weight.blocksize, double_quant=weight.compress_statistics)


def quantized_weight(
    module: nn.Module, weight: Tensor, *, count: int = 0, threads: int | None = None, allocate: Allocate = fresh
) -> Params4bit | Int8Params:
    """What takes the place of the `weight` of a bitsandbytes layer: quantized by our kernels on the CPU, elsewhere by the library's.

    It is one of several weights of `count` elements in all. `allocate` gives the memory of its codes.
    """
    from bitsandbytes.functional import int8_vectorwise_quant
    from bitsandbytes.nn.modules import Int8Params, Params4bit
    from transformers.pytorch_utils import Conv1D

    if issubclass(getattr(module, "source_cls", nn.Linear), Conv1D):
        weight = weight.T
    settings = dict(module.weight.__dict__)
    if isinstance(module.weight, Params4bit):
        return _four_bit(weight, settings, use_numba=is_worth_compiling("four_bit", count), threads=threads, allocate=allocate)
    settings.pop("SCB", None)
    if settings["has_fp16_weights"]:
        return Int8Params(weight.clone(), requires_grad=False, **settings)
    if weight.device.type == "cpu":
        codes, absmax = int8.quantize(weight, use_numba=is_worth_compiling("int8", count), threads=threads, allocate=allocate)
    else:  # as `to` would, which quantizes what comes from the host only
        codes, absmax = int8_vectorwise_quant(weight.to(torch.float16).contiguous())[:2]
    return Int8Params(codes, requires_grad=False, **{**settings, "CB": codes, "SCB": absmax})


def compile_loop(module: nn.Module, dtype: torch.dtype, *, count: int) -> None:
    """Have the loop ready that quantizes the layer's weight on the CPU: the first time takes half a second of Python's own."""
    from bitsandbytes.nn.modules import Linear4bit

    name = "four_bit" if isinstance(module, Linear4bit) else "int8"
    if is_worth_compiling(name, count):
        compiled(name, dtype)


def to_parts(value: Tensor) -> dict[str, Tensor]:
    """Plain tensors from which `from_parts` makes the parameter again; of any other tensor itself."""
    if "bitsandbytes" not in sys.modules:
        return {"data": value}
    from bitsandbytes.nn.modules import Int8Params, Params4bit

    if isinstance(value, Params4bit) and value.quant_state is not None:
        return {"data": value.data, **value.quant_state.as_dict(packed=True)}
    if isinstance(value, Int8Params) and value.SCB is not None:
        return {"data": value.data, "SCB": value.SCB}
    return {"data": value}


def computes_packed(module: nn.Module) -> bool:
    """Whether the layer's first forward on this CPU will put its weight in another order."""
    return is_quantized(module) and getattr(module, "support_avx512bf16_for_cpu", False)


def pack_at_first_forward(module: nn.Module) -> None:
    """Have a layer that `computes_packed` put its weight in that order by code of ours, to the same bits: the library takes ten times as
    long.
    """
    if computes_packed(module) and _can_be_packed(module.weight):
        _Packing(module)


def packed_parts(value: Tensor) -> dict[str, Tensor]:
    """As `to_parts`, of the weight in the order that a layer which `computes_packed` would give it; where it can't, as it is."""
    from bitsandbytes.functional import QuantState

    state: Any = getattr(value, "quant_state", None)
    if state is None or not cpu_packing.can_be_packed(state):
        return to_parts(value)
    described = {"blocksize": state.blocksize, "code": state.code, "quant_type": state.quant_type, "shape": state.shape}
    packed = QuantState(absmax=cpu_packing.packed_scales(state), dtype=state.dtype, **described)
    before = torch.tensor([state.nested, *value.data.view(torch.uint8).shape])
    return {"data": cpu_packing.packed_codes(value.data, state), _PACKED: before, **packed.as_dict(packed=True)}


def from_parts(empty: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    """The quantized weight in place of `empty`, a layer's parameter on the meta device, which carries the settings; no copy of `parts`."""
    others = dict(parts)
    data: Any = others.pop("data")
    packed = others.pop(_PACKED, None)
    if not others:
        return data
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn.modules import Int8Params, Params4bit

    settings = dict(empty.__dict__)
    if "SCB" in others:
        return Int8Params(data, requires_grad=False, **{**settings, "CB": data, "SCB": others["SCB"]})
    state = QuantState.from_dict(others, data.device)
    if packed is not None:
        _mark_as_packed(state, packed.tolist(), settings["quant_storage"])
    if settings.get("module") is not None:
        settings["module"].quant_state = state
    return Params4bit(data, requires_grad=False, **{**settings, "quant_state": state, "bnb_quantized": True})


def forget(module: Any) -> None:
    """Let a layer drop what it keeps of its weight beside the parameter: it finds that again in the next one."""
    if not is_quantized(module):
        return
    if getattr(module, "quant_state", None) is not None:
        module.quant_state = None
    if (state := getattr(module, "state", None)) is not None:
        state.CB = state.SCB = None


class _Packing:
    """A hook before a layer's forward, until there is one in which the library would pack."""

    def __init__(self, module: nn.Module) -> None:
        self._handle = module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not arguments or module.training or arguments[0].device.type != "cpu" or arguments[0].requires_grad:
            return
        if _can_be_packed(module.weight):
            _pack(module.weight)
        self._handle.remove()


def _can_be_packed(weight: Any) -> bool:
    state = getattr(weight, "quant_state", None)
    is_here = state is not None and weight.device.type == "cpu"
    return is_here and not getattr(state, "packing_format_for_cpu", False) and cpu_packing.can_be_packed(state)


def _pack(weight: Any) -> None:
    """As the library would, in place."""
    state, storage = weight.quant_state, weight.dtype
    before = [state.nested, *weight.data.view(torch.uint8).shape]
    weight.data, state.absmax = cpu_packing.packed_codes(weight.data, state), cpu_packing.packed_scales(state)
    if state.nested:
        state.nested = False
        del state.state2
    _mark_as_packed(state, before, storage)


def _mark_as_packed(state: Any, before: list[int], storage: torch.dtype) -> None:
    """What the library notes where it has put a weight in another order."""
    state.original_dtype, state.original_nested, state.original_qshape = state.dtype, bool(before[0]), torch.Size(before[1:])
    if storage != torch.uint8:
        state.original_storage_type = storage
    state.dtype, state.packing_format_for_cpu = torch.bfloat16, True


def _four_bit(weight: Tensor, settings: dict[str, Any], *, use_numba: bool, threads: int | None, allocate: Allocate) -> Params4bit:
    from bitsandbytes.nn.modules import Params4bit

    if weight.device.type != "cpu":
        unquantized: Any = Params4bit(weight, requires_grad=False, **settings)
        return unquantized.to(weight.device)  # which quantizes
    blocksize, quant_type, storage = settings["blocksize"], settings["quant_type"], settings["quant_storage"]
    packed, absmax = four_bit.quantize(
        weight,
        quant_type=quant_type,
        blocksize=blocksize,
        use_numba=use_numba,
        threads=threads,
        allocate=allocate,
        allocate_absmax=fresh if settings["compress_statistics"] else allocate,
    )
    if storage != torch.uint8:
        packed = packed.squeeze().view(storage).unsqueeze(1)
    state = four_bit.quant_state(
        absmax,
        quant_type=quant_type,
        blocksize=blocksize,
        shape=weight.shape,
        dtype=weight.dtype,
        double_quant=settings["compress_statistics"],
    )
    module = settings.get("module")
    if module is not None:
        module.quant_state = state
    return Params4bit(packed, requires_grad=False, **{**settings, "quant_state": state, "bnb_quantized": True})
