"""The hqq library's layer as a module like any other: its scales move, are saved and are found with its weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hqq.core.quantize import HQQLinear, Quantizer
from torch import Tensor, nn

from .sizes import is_in_hqq_groups

_SCALES = ("scale", "zero")
_plain: Any = nn.Module  # whose methods return another type than those of HQQLinear say


def is_divisible(in_features: int, out_features: int, settings: dict[str, Any]) -> bool:
    """Whether a matrix of this size falls into whole groups, and its codes into whole bytes."""
    bits, size, axis = (settings[key] for key in ("nbits", "group_size", "axis"))
    return is_in_hqq_groups(in_features * out_features, bits=bits, group_size=size, axis=axis)


@cache
def _packed(shape: tuple[int, int], packing: str) -> tuple[torch.Size, torch.dtype]:
    """What the library makes of so many codes."""
    codes: Tensor = Quantizer.pack[packing](torch.empty(shape, dtype=torch.uint8, device="meta"))
    return codes.shape, codes.dtype


class HqqLinear(HQQLinear):
    """An HQQLinear that is built before its weights are there: `W_q` a parameter, `scale` and `zero` buffers, on the meta device.

    The library keeps its scales in a dictionary and makes `to` and `half` do nothing; here they are tensors of the module. `settings`
    are the library's `weight_quant_params`. `transposed`: checkpoints hold the matrix inputs first (GPT-2's Conv1D).
    """

    scale: Tensor
    zero: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        settings: dict[str, Any],
        compute_dtype: torch.dtype,
        transposed: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.transposed = in_features, out_features, transposed
        self.quant_config: dict[str, Any] = {"weight_quant_params": dict(settings), "scale_quant_params": None, "zero_quant_params": None}
        self.offload_meta, self.encoded_state_dict, self.ready = False, True, True
        size, along_rows = settings["group_size"], settings["axis"] == 1
        groups = in_features * out_features // size
        shape, dtype = _packed((groups, size) if along_rows else (size, groups), self._packing)
        self.W_q = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
        for name in _SCALES:
            shape = (groups, 1) if along_rows else (1, groups)
            self.register_buffer(name, torch.empty(shape, dtype=compute_dtype, device="meta"))
        self.bias = nn.Parameter(torch.empty(out_features, dtype=compute_dtype, device="meta"), requires_grad=False) if bias else None

    @property
    def meta(self) -> dict[str, Any]:
        """What the library's functions want to know of the codes."""
        settings = self.quant_config["weight_quant_params"]
        return {
            **{key: settings[key] for key in ("nbits", "group_size", "axis", "view_as_float")},
            "shape": torch.Size((self.out_features, self.in_features)),
            "scale": self.scale,
            "zero": self.zero,
            "packing": self._packing,
            "unpack_view_dtype": Quantizer.unpack_view_dtype[self._packing],
            "quant_scale": False,
            "quant_zero": False,
            "compute_dtype": self.compute_dtype,
        }

    @property
    def _packing(self) -> str:
        return Quantizer.bit_to_packing[self.quant_config["weight_quant_params"]["nbits"]]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of dequantized weights."""
        return self.scale.dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        nn.Module.to(self, dtype)

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.W_q.device

    @property
    def weight(self) -> Tensor:
        """The dequantized matrix, for models that use it without calling the layer."""
        return self.dequantize()

    def forward(self, hidden: Tensor) -> Tensor:
        """By the backend that was chosen for the library's layers, in the compute dtype."""
        return getattr(self, HQQLinear.backend.value)(hidden.to(self.compute_dtype)).to(hidden.dtype)

    def cuda(self, device: Any = "cuda") -> HqqLinear:
        """To any device, as the library and transformers use the word."""
        return self.to(device)

    def librarys_state(self) -> dict[str, Tensor]:
        """The state dict that the library's own layer reads: the settings are tensors, too."""
        state: Any = HQQLinear.state_dict(self)
        return state

    to = _plain.to
    cpu = _plain.cpu
    type = _plain.type
    half = _plain.half
    float = _plain.float
    double = _plain.double
    bfloat16 = _plain.bfloat16
    state_dict = _plain.state_dict
    load_state_dict = _plain.load_state_dict
    _load_from_state_dict = _plain._load_from_state_dict
