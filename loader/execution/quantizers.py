"""What a user asks of quantization, as transformers, bitsandbytes and hqq say it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import MissingDependencyError, UsageError
from ..settings import QuantizationConfig, QuantizationMethod

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

    from .hqq_quantizer import HqqSettings

_FOUR_BITS = {QuantizationMethod.BNB_NF4: "nf4", QuantizationMethod.BNB_FP4: "fp4"}
# What each method has; groups of HQQ are of any multiple of 8.
_BITS = {QuantizationMethod.BNB_INT8: (8,), QuantizationMethod.HQQ: (1, 2, 3, 4, 8), QuantizationMethod.MLX_INT8: (8,)}
_GROUP_SIZES = {
    QuantizationMethod.BNB_NF4: (64,),
    QuantizationMethod.BNB_FP4: (64,),
    QuantizationMethod.MLX_INT4: (32, 64, 128),
    QuantizationMethod.MLX_INT8: (32, 64, 128),
}
_AXES = {QuantizationMethod.HQQ: (0, 1)}


def library_config(asked: QuantizationConfig | None) -> BitsAndBytesConfig | HqqSettings | None:
    """The config of the method's quantizer; None where nothing is asked.

    Raises MissingDependencyError without the method's library, UsageError for a method of MLX's, and for bits, a group size or an axis
    that the method does not have.
    """
    if asked is None or asked.method is QuantizationMethod.AUTO:  # until that is chosen
        return None
    if asked.method.is_for_mlx:
        raise UsageError(f"{asked.method.value} needs the backend mlx", hint="--device mlx, or --quantize hqq, which works with torch")
    _check(asked)
    if asked.method is QuantizationMethod.HQQ:
        return _hqq(asked)
    require("bitsandbytes", asked.method.value)
    require("accelerate", asked.method.value)
    from transformers import BitsAndBytesConfig

    skipped = list(asked.skip_modules) or None
    if asked.method is QuantizationMethod.BNB_INT8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=_FOUR_BITS[asked.method],
        bnb_4bit_compute_dtype=asked.compute_dtype,
        bnb_4bit_use_double_quant=asked.double_quant,
        bnb_4bit_quant_storage=asked.quant_storage,
        llm_int8_skip_modules=skipped,
    )


def check_mlx(asked: QuantizationConfig | None) -> None:
    """Raises UsageError for a method that is not MLX's, and for bits, a group size or an axis that it does not have."""
    if asked is not None and not asked.method.is_for_mlx:
        raise UsageError(f"{asked.method.value} does not work with the backend mlx", hint="--quantize mlx_int4 or mlx_int8 does")
    if asked is not None:
        _check(asked)


def require(package: str, what: str) -> None:
    """Raises MissingDependencyError where the package is not installed."""
    if find_spec(package) is None:
        raise MissingDependencyError(f"{what} needs {package}", hint='pip install "mlload[quantize]"')


def _check(asked: QuantizationConfig) -> None:
    name, size = asked.method.value, asked.group_size
    bits, sizes = _BITS.get(asked.method, (4,)), _GROUP_SIZES.get(asked.method, ())
    if asked.bits not in (None, *bits):
        raise UsageError(f"{name} has {' or '.join(map(str, bits))} bits, not {asked.bits}")
    fits = size > 0 and size % 8 == 0 if size is not None and asked.method is QuantizationMethod.HQQ else size in (None, *sizes)
    if not fits:
        hint = f"it has {', '.join(map(str, sizes))}" if len(sizes) > 1 else "hqq has groups of any multiple of 8"
        raise UsageError(f"{name} has no groups of {size} weights", hint=hint)
    if asked.axis not in _AXES.get(asked.method, (1,)):
        raise UsageError(f"{name} has no axis {asked.axis}", hint="hqq has 0 and 1")


def _hqq(asked: QuantizationConfig) -> HqqSettings:
    require("hqq", "hqq")
    from .hqq_quantizer import HqqSettings

    dtype = None if asked.compute_dtype is None else str(asked.compute_dtype).removeprefix("torch.")
    return HqqSettings(asked.bits or 4, asked.group_size or 64, asked.axis, list(asked.skip_modules), dtype)
