"""The precisions that a checkpoint can be loaded in here, each with the error that it makes and what keeps it from being taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ...configs import table
from ..checkpoint import Checkpoint
from ..execution.backends import Hardware
from ..settings import Backend, QuantizationConfig, QuantizationMethod
from ..tensors import TensorEntry

_TORCH_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float32"}
# Bits of a mantissa: what is stored with no more of them is kept whole.
_MANTISSAS = {"float32": 24, "float16": 11, "bfloat16": 8}
# What loads weights that are quantized already: packages, and the backends that compute with them. Others are not known to load here.
_STORED = {
    "nf4": (("accelerate", "bitsandbytes"), (Backend.CPU, Backend.CUDA)),
    "fp4": (("accelerate", "bitsandbytes"), (Backend.CPU, Backend.CUDA)),
    "int8": (("accelerate", "bitsandbytes"), (Backend.CPU, Backend.CUDA)),
    "hqq": (("hqq",), (Backend.CPU, Backend.CUDA, Backend.MPS)),
    "gptq": (("gptqmodel", "optimum"), (Backend.CPU, Backend.CUDA)),
    "awq": (("gptqmodel",), (Backend.CPU, Backend.CUDA)),
    "fp8": ((), (Backend.CUDA,)),
    "gguf": (("gguf", "accelerate"), (Backend.CPU, Backend.CUDA, Backend.MPS)),
}


@dataclass(frozen=True, slots=True)
class Precision:
    """`loss`: the root mean square error of the weights, relative to the weights' own. `problem`: why it can't be had here."""

    dtype: str
    quantization: QuantizationConfig | None
    loss: float
    problem: str | None = None


def precisions(checkpoint: Checkpoint, backend: Backend, hardware: Hardware) -> Iterator[Precision]:
    """The best first; what is quantized already stays as it is."""
    own = own_dtype(checkpoint)
    if checkpoint.quantization is not None:
        problem = _problem_of_stored(checkpoint.quantization.method, backend)
        for dtype in ("float32", "bfloat16") if checkpoint.format == "gguf" else (own,):
            yield Precision(dtype, None, 0.0, problem)
        return
    for dtype in dict.fromkeys((own, "float32", "bfloat16", "float16")):
        problem = _problem_of_dtype(dtype, backend, hardware)
        if dtype != "float16" or own != "bfloat16" or _problem_of_dtype(own, backend, hardware):  # its range is narrower: numbers overflow
            yield Precision(dtype, None, _rounding(own, dtype), problem)
    for line in table("precisions").values():
        quantization = QuantizationConfig(QuantizationMethod(line["method"]), bits=line["bits"])
        yield Precision(own, quantization, line["loss"], _problem_of_method(line, backend))


def own_dtype(checkpoint: Checkpoint) -> str:
    """What the checkpoint is loaded in unless something else is asked: what its config says, else its first float tensor."""
    config = checkpoint.config or {}
    declared = config.get("dtype") or config.get("torch_dtype")
    if isinstance(declared, str) and declared.removeprefix("torch.") in _MANTISSAS:
        return declared.removeprefix("torch.")
    stored: TensorEntry | None = next((entry for entry in checkpoint.tensors.values() if entry.dtype in _TORCH_FLOATS), None)
    return "float32" if stored is None else _TORCH_FLOATS[stored.dtype]


def _rounding(stored: str, dtype: str) -> float:
    """Of rounding to fewer bits: evenly spread over a step of a half of the last one."""
    if _MANTISSAS[dtype] >= _MANTISSAS[stored]:
        return 0.0
    return 2.0 ** -_MANTISSAS[dtype] / 3**0.5


def _problem_of_dtype(dtype: str, backend: Backend, hardware: Hardware) -> str | None:
    devices = hardware.cuda if backend is Backend.CUDA else (hardware.mps,) if backend is Backend.MPS else ()
    if dtype == "bfloat16" and any(device is not None and not device.bfloat16 for device in devices):
        return f"{backend.value} does not compute in bfloat16 here"
    return None


def _problem_of_method(line: Mapping[str, Any], backend: Backend) -> str | None:
    if backend.value not in line["devices"]:
        return f"does not compute on {backend.value}"
    return _missing(line["packages"])


def _problem_of_stored(method: str, backend: Backend) -> str | None:
    known = _STORED.get(method)
    if known is None:
        return f"weights in {method} are not known to load here"
    packages, backends = known
    if backend not in backends:
        return f"weights in {method} do not compute on {backend.value}"
    return _missing(packages)


def _missing(packages: Sequence[str]) -> str | None:
    lacking = next((package for package in packages if find_spec(package) is None), None)
    return None if lacking is None else f"needs {lacking}"
