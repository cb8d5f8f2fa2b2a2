"""What a user asks of quantization, as transformers and bitsandbytes say it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import DoesNotFitError, MissingDependencyError, UsageError
from ..settings import QuantizationConfig, QuantizationMethod

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

_FOUR_BITS = {QuantizationMethod.BNB_NF4: "nf4", QuantizationMethod.BNB_FP4: "fp4"}


def library_config(asked: QuantizationConfig | None) -> BitsAndBytesConfig | None:
    """transformers' config for bitsandbytes' methods; None where nothing is asked.

    Raises MissingDependencyError without bitsandbytes, DoesNotFitError for a method of other machines, UsageError for bits that it lacks.
    """
    if asked is None:
        return None
    if asked.method in (QuantizationMethod.MLX_INT4, QuantizationMethod.MLX_INT8):
        raise DoesNotFitError(f"{asked.method.value} needs MLX on an Apple machine", hint="--quantize hqq works on every machine")
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise MissingDependencyError(f"{asked.method.value} needs {package}", hint='pip install "mlload[quantize]"')
    from transformers import BitsAndBytesConfig

    skipped = list(asked.skip_modules) or None
    if asked.method is QuantizationMethod.BNB_INT8:
        _check_bits(asked, 8)
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    _check_bits(asked, 4)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=_FOUR_BITS[asked.method],
        bnb_4bit_compute_dtype=asked.compute_dtype,
        bnb_4bit_use_double_quant=asked.double_quant,
        bnb_4bit_quant_storage=asked.quant_storage,
        llm_int8_skip_modules=skipped,
    )


def _check_bits(asked: QuantizationConfig, bits: int) -> None:
    if asked.bits not in (None, bits):
        raise UsageError(f"{asked.method.value} has {bits} bits, not {asked.bits}")
