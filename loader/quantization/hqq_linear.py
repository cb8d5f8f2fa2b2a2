"""The hqq library's own layer, filled by our kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import hqq

if TYPE_CHECKING:
    from hqq.core.quantize import HQQLinear


@torch.no_grad()
def quantized_linear(
    weight: Tensor,
    bias: Tensor | None,
    quant_config: dict[str, Any],
    *,
    compute_dtype: torch.dtype,
    use_numba: bool = False,
    threads: int | None = None,
    torch_threads: int | None = None,
) -> HQQLinear:
    """An HQQLinear on the weight's device. `quant_config` is what `hqq.core.quantize.BaseQuantizeConfig` makes; the rest as in hqq.py."""
    from hqq.core.quantize import HQQLinear

    asked = quant_config["weight_quant_params"]
    if weight.device.type != "cpu" or asked["view_as_float"] or not asked["optimize"] or not asked["channel_wise"]:
        return HQQLinear.from_weights(weight, bias, quant_config, compute_dtype=compute_dtype, device=str(weight.device))
    layer: Any = HQQLinear(None, quant_config, compute_dtype=compute_dtype, device="cpu", initialize=False)
    del layer.linear_layer
    settings = layer.quant_config["weight_quant_params"]
    if settings["group_size"] is None:
        settings["group_size"] = weight.shape[settings["axis"]]
    layer.out_features, layer.in_features = weight.shape
    chosen = {key: settings[key] for key in ("nbits", "group_size", "axis", "round_zero")}
    layer.W_q, described = hqq.quantize(weight, **chosen, use_numba=use_numba, threads=threads, torch_threads=torch_threads)
    layer.meta = {**described, "quant_scale": False, "quant_zero": False}
    layer.cuda("cpu")  # the library's word for "to this device, in the compute dtype"
    layer.ready = True
    layer.bias = None if bias is None else bias.to(compute_dtype, copy=True)
    return layer
