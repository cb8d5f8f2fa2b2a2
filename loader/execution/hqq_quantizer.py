"""HQQ behind transformers' interface for quantizers; its own answers that it is not available yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import HqqConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer, get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from ..errors import InvalidCheckpointError, UsageError
from ..quantization.compiled import is_worth_compiling
from ..quantization.sizes import hqq_quantizing_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..quantization.hqq_layer import HqqLinear

_BITS = (1, 2, 3, 4, 8)


class HqqSettings(HqqConfig):
    """transformers' config for HQQ, and the dtype that layers compute in: None for the model's."""

    def __init__(
        self, nbits: int = 4, group_size: int = 64, axis: int = 1, skip_modules: list[str] | None = None, compute_dtype: str | None = None
    ) -> None:
        super().__init__(nbits=nbits, group_size=group_size, axis=axis, skip_modules=list(skip_modules or ()))
        self.compute_dtype = compute_dtype

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> HqqSettings:
        """From a checkpoint's config. Raises InvalidCheckpointError for settings that are not those of HQQ's layers."""
        sections = config.get("quant_config")
        found = sections.get("weight_quant_params") if isinstance(sections, dict) else None
        found = found if isinstance(found, dict) else {}
        bits, size, axis = (cast("int", found.get(key)) for key in ("nbits", "group_size", "axis"))
        skipped, dtype = config.get("skip_modules") or [], config.get("compute_dtype")
        right = bits in _BITS and type(size) is int and size > 0 and size % 8 == 0 and axis in (0, 1) and not found.get("view_as_float")
        named = isinstance(skipped, list) and all(isinstance(name, str) for name in skipped)
        if not (right and named and dtype in (None, "float32", "float16", "bfloat16")):
            message = "its quantization_config is not that of HQQ with one bits, group_size and axis for all layers"
            raise InvalidCheckpointError(message, file="config.json", hint="quantize the original checkpoint with --quantize hqq")
        return cls(bits, size, axis, skipped, dtype)

    def to_dict(self) -> dict[str, Any]:
        """What config.json keeps."""
        return {**super().to_dict(), "quant_method": "hqq", "compute_dtype": self.compute_dtype}


class HqqQuantizer(HfQuantizer):
    """Puts HQQ's layers in the place of linear ones, and quantizes weights for them."""

    quantization_config: HqqSettings
    _kernel: Mapping[str, Any]

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **_: object) -> bool:
        """Whether it is of a layer that was replaced, and not its bias."""
        from ..quantization.hqq_layer import HqqLinear

        path, name = param_name.rpartition(".")[::2]
        return name != "bias" and isinstance(model.get_submodule(path), HqqLinear)

    def get_quantize_ops(self) -> HqqQuantizer:
        """What has a `convert`: this object."""
        return self

    @torch.no_grad()
    def convert(self, values: Mapping[str, list[Tensor]], full_layer_name: str, model: PreTrainedModel, **_: object) -> dict[str, Tensor]:
        """The codes and scales of a matrix, by name."""
        from ..quantization.hqq_linear import quantized_linear

        path = full_layer_name.rpartition(".")[0]
        layer: Any = model.get_submodule(path)
        weight = values[full_layer_name][0]
        weight = weight.T.contiguous() if layer.transposed else weight
        config = {**layer.quant_config, "offload_meta": False}
        made: Any = quantized_linear(weight, None, config, compute_dtype=layer.compute_dtype, threads=1, **self._kernel)
        return {f"{path}.W_q": made.W_q, f"{path}.scale": made.meta["scale"], f"{path}.zero": made.meta["zero"]}

    def quantizing_bytes(self, model: PreTrainedModel, param_name: str) -> int:
        """What quantizing a weight takes beside it and the result."""
        layer: Any = model.get_submodule(param_name.rpartition(".")[0])
        settings = self.quantization_config.quant_config["weight_quant_params"]
        is_compiled = self._kernel["use_numba"] and settings["axis"] == 1
        weights, bits, size = layer.in_features * layer.out_features, settings["nbits"], settings["group_size"]
        return hqq_quantizing_bytes(weights, bits=bits, group_size=size, is_compiled=is_compiled)

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> Any:
        """What is saved: for each layer all that the hqq library reads."""
        state: dict[str, Tensor] = dict(model.state_dict())
        for path, layer in _layers(model).items():
            for name, value in layer.librarys_state().items():
                state.setdefault(f"{path}.{name}", value)
        return state, {}

    def weights_packed_away(self, model: PreTrainedModel) -> int:
        """How many more weights the model has than its parameters have elements."""
        return sum(layer.in_features * layer.out_features - layer.W_q.numel() for layer in _layers(model).values())

    def is_serializable(self) -> Any:
        """Yes, as safetensors."""
        return True

    @property
    def is_trainable(self) -> Any:
        """Yes: adapters on top of it."""
        return True

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: object) -> None:
        from ..quantization.hqq_layer import HqqLinear, is_divisible

        asked = self.quantization_config
        settings = asked.quant_config["weight_quant_params"]
        compute_dtype = getattr(torch, asked.compute_dtype) if asked.compute_dtype else None
        kept = self.get_modules_to_not_convert(model, None, list(model._keep_in_fp32_modules or ()))
        asked.skip_modules = sorted({*asked.skip_modules, *get_keys_to_not_convert(model)})
        for path, module in list(model.named_modules()):
            sizes = _sizes(module)
            is_kept = not should_convert_module(path, kept) or any(_is_within(path, name) for name in asked.skip_modules)
            if sizes is None or is_kept or not is_divisible(*sizes, settings):
                continue
            layer = HqqLinear(
                *sizes,
                bias=getattr(module, "bias", None) is not None,
                settings=settings,
                compute_dtype=compute_dtype or module.get_parameter("weight").dtype,
                transposed=isinstance(module, Conv1D),
            )
            model.set_submodule(path, layer)
        self._check(model)
        weights = sum(layer.in_features * layer.out_features for layer in _layers(model).values())
        self._kernel = {"use_numba": is_worth_compiling("hqq_search", weights), "torch_threads": torch.get_num_threads()}

    def _check(self, model: PreTrainedModel) -> None:
        layers = _layers(model)
        if not layers:
            size = self.quantization_config.quant_config["weight_quant_params"]["group_size"]
            raise UsageError(
                f"{type(model).__name__} has no linear layer that groups of {size} divide", hint="choose another --group-size, or int8"
            )
        told = next(iter(layers.values())).state_dict_keys() - {"W_q", "scale", "zero", "bias"}
        model._keys_to_ignore_on_load_unexpected = {
            *(model._keys_to_ignore_on_load_unexpected or ()),
            rf"\.({'|'.join(map(re.escape, sorted(told)))})$",
        }

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: object) -> PreTrainedModel:
        for layer in _layers(model).values():
            if layer.bias is not None and layer.bias.dtype != layer.compute_dtype:
                layer.bias.data = layer.bias.data.to(layer.compute_dtype)
        return model


def _layers(model: nn.Module) -> dict[str, HqqLinear]:
    from ..quantization.hqq_layer import HqqLinear

    return {path: module for path, module in model.named_modules() if isinstance(module, HqqLinear)}


def _is_within(path: str, name: str) -> bool:
    """Whether `name` is the module's, an outer one's or the end of one; never an expression, since a checkpoint may have written it."""
    return path.endswith(name) or path.startswith(f"{name}.")


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a layer that multiplies by a matrix and does nothing else."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        return module.in_features, module.out_features
    return None
