"""What a config says of quantization, in whichever of its dialects: bits and group size, of the whole model or of one module."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .config_view import Config

_MAX_BITS, _MAX_INTEGER = 64, 10**9
_BITS = ("bits", "nbits", "num_bits", "w_bit")
_GROUP_SIZE = ("group_size", "q_group_size")
_BITS_IN_WORD = re.compile(r"^(?:u?int|float|fp|qu?int|qfloat)(\d{1,2})(?:_|$)")  # `int4` (quanto), `fp8_e4m3` (Quark)
# Sections that tell of something else than the weights.
_NOT_WEIGHTS = re.compile(r"activation|input|output|scale_quant|zero_quant|kv_cache|layer_quant")
# Where settings of single modules stand by the module's name, whole or its end; MLX keeps them beside the general ones.
_BY_MODULE = ("extra_config", "quant_config", "layer_quant_config")
# Keys worth showing, where they hold plain values.
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
    "quant_algo",
    "mode",
    "weights",
    "num_codebooks",
    "nbits_per_codebook",
    "in_group_size",
)


class QuantizationConfig:
    """The quantization section of a config; false where there is none."""

    def __init__(self, config: Config | None) -> None:
        self._section = _section(config or {})
        self._by_module = [self._section, *(part for key in _BY_MODULE if isinstance(part := self._section.get(key), dict))]

    def __bool__(self) -> bool:
        return bool(self._section)

    @property
    def method(self) -> str | None:
        """The `quant_method`, in small letters; MLX names none."""
        value = self._section.get("quant_method")
        return value.lower() if isinstance(value, str) else None

    @property
    def is_at_load(self) -> bool:
        """Whether ordinary weights are stored, to be quantized each time they are loaded."""
        return self._section.get("quantization_mode") == "online" or self._section.get("store_master_weights") is True

    def bits(self, module: str = "") -> float | None:
        """Bits a weight, of this module or in general."""
        return next((bits for section in self._sections(module) if (bits := _bits(section)) is not None), None)

    def group_size(self, module: str = "") -> int | None:
        """Weights that share a scale, of this module or in general."""
        found = (_number(section, _GROUP_SIZE) for section in self._sections(module))
        return next((int(size) for size in found if size is not None), None)

    def schemes(self) -> list[tuple[float | None, float | None]]:
        """Bits and group size of each of the config's groups (compressed-tensors)."""
        groups = self._section.get("config_groups")
        sections = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
        return [(_bits(group), _number(group, _GROUP_SIZE)) for group in sections]

    def details(self, method: str | None) -> dict[str, object]:
        """The settings that can be shown as they stand."""
        shown = (key for key in _SHOWN if method != "int8" or not key.startswith("bnb_4bit"))
        return {key: self._section[key] for key in shown if _is_plain(self._section.get(key))}

    def _sections(self, module: str) -> Iterator[Config]:
        """The module's own settings, then the general ones."""
        while module:
            yield from (own for settings in self._by_module if isinstance(own := settings.get(module), dict))
            module = module.partition(".")[2]
        yield self._section


def _section(config: Config) -> Config:
    for part in (config, config.get("text_config")):
        for key in ("quantization_config", "compression_config", "quantization"):
            value = part.get(key) if isinstance(part, dict) else None
            if isinstance(value, dict) and value:
                return value
    return {}


def _bits(section: Config) -> float | None:
    bits = _number(section, _BITS)
    if bits is None:
        bits = next((int(match[1]) for word in _words(section) if (match := _BITS_IN_WORD.match(word))), None)
    return bits if bits is not None and 0 < bits <= _MAX_BITS else None


def _words(section: Config, depth: int = 3) -> Iterator[str]:
    """Names of the types that weights are stored in."""
    yield from (value for key in ("weights", "dtype") if isinstance(value := section.get(key), str))
    if depth:
        for value in _weight_sections(section):
            yield from _words(value, depth - 1)


def _number(section: Config, keys: tuple[str, ...], depth: int = 4) -> float | None:
    """The first of these keys that holds a number, in the sections too (compressed-tensors nests them deeply)."""
    for key in keys:
        value = section.get(key)
        if type(value) in (int, float) and _is_number(value):
            return value  # pyright: ignore[reportReturnType]  # of these two types
    sections = _weight_sections(section) if depth else ()
    return next((found for part in sections if (found := _number(part, keys, depth - 1)) is not None), None)


def _weight_sections(section: Config) -> Iterator[Config]:
    return (value for key, value in section.items() if isinstance(value, dict) and not _NOT_WEIGHTS.search(key))


def _is_plain(value: object) -> bool:
    """Whether a value can be shown as it is: a short word, a number, or a few of them."""
    if isinstance(value, list):
        return len(value) <= 16 and all(_is_number(item) for item in value)
    return _is_number(value) or (isinstance(value, str) and len(value) <= 100)


def _is_number(value: object) -> bool:
    """Whether a value is a number that JSON and a line can hold: not infinite, not of hundreds of digits."""
    return isinstance(value, int | float) and abs(value) <= _MAX_INTEGER
