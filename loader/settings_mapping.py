"""ModelLoadingConfig from plain values by name, as a file or a command line gives them, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from enum import Enum
from functools import partial
from os import PathLike, fspath
from typing import Any

from .errors import UsageError
from .settings import Backend, LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod, choice, parse_bytes
from .text import did_you_mean, printable

Values = dict[str, Any]  # fields of ModelLoadingConfig by name; below "quantization_config" those of QuantizationConfig
Parser = Callable[[object], object]

_FLOATS = ("float32", "float16", "bfloat16")
_STORAGES = ("uint8", "int8", *_FLOATS)
_ONLY_ON_THE_COMMAND_LINE = "trust_remote_code"  # a file may have come with the checkpoint


def parse_settings(plain: Mapping[Any, object], *, where: str = "") -> Values:
    """Values of ModelLoadingConfig's fields. Raises UsageError, beginning with `where`, for unknown names and wrong values."""
    if where and plain.get(_ONLY_ON_THE_COMMAND_LINE):
        raise UsageError(f"{where}{_ONLY_ON_THE_COMMAND_LINE} holds from the command line alone", hint="say --trust-remote-code there")
    return _parsed(plain, ModelLoadingConfig, where)


def merged(below: Values, above: Values) -> Values:
    """Both, `above` before `below`. What is said of a quantization holds for its method: another method takes nothing over."""
    quantization = above.get("quantization_config") or {}
    if "method" not in quantization and "quantization_config" in above:
        quantization = {**(below.get("quantization_config") or {}), **quantization}
    return {**below, **above, **({"quantization_config": quantization} if quantization else {})}


def build_settings(values: Values) -> ModelLoadingConfig:
    """The config that `values` make. Raises UsageError without a model, and for a quantization without a method."""
    if not values.get("model_name"):
        raise UsageError("no model is named", hint="mlload load MODEL, or model_name in the file of --config")
    quantization = values.get("quantization_config")
    if quantization and "method" not in quantization:
        raise UsageError(f"{', '.join(quantization)}: of which quantization?", hint="--quantize, or method in the file, says that")
    return ModelLoadingConfig(**{**values, "quantization_config": QuantizationConfig(**quantization) if quantization else None})


def plain_settings(config: ModelLoadingConfig) -> dict[str, object]:
    """What of `config` is not as it is by default, as values that every file can hold."""
    plain = {field.name: _plain(value) for field in fields(config) if (value := getattr(config, field.name)) != field.default}
    return {name: value for name, value in plain.items() if name != _ONLY_ON_THE_COMMAND_LINE}


def plain_quantization(config: QuantizationConfig) -> dict[str, object]:
    """The same of a quantization."""
    return {field.name: _plain(value) for field in fields(config) if (value := getattr(config, field.name)) != field.default}


def check_known(names: Iterable[object], known: Iterable[str], *, where: str = "") -> None:
    """Raises UsageError for the first of `names` that is not known, with the nearest that is."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UsageError(f"{where}unknown setting '{name}'", hint=did_you_mean(str(name), known) or f"known: {', '.join(known)}")


def _parsed(plain: Mapping[Any, object], config: type[ModelLoadingConfig | QuantizationConfig], where: str) -> Values:
    known = {field.name: field for field in fields(config)}
    check_known(plain, known, where=where)
    return {name: _value(known[name], value, where) for name, value in plain.items()}


def _value(field: Field[Any], value: object, where: str) -> object:
    inner = f"{where}{field.name}: " if where else ""
    if value is None and field.default is None:
        return None
    if field.name == "quantization_config" and isinstance(value, Mapping):
        return _parsed(value, QuantizationConfig, inner)
    try:
        return _parser(field)(value)
    except UsageError as error:
        raise UsageError(inner + error.message, hint=error.hint) from None


def _parser(field: Field[Any]) -> Parser:
    """By what the field is of, where its default does not tell."""
    if field.name in _PARSERS:
        return _PARSERS[field.name]
    if isinstance(field.default, Enum):
        return partial(_member, type(field.default))
    return {bool: _flag, int: _number}.get(type(field.default), _text)


def _member(kind: type[Enum], value: object) -> Enum:
    switch = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # YAML takes on and off for them
    return choice(kind, _text(switch))


def _text(value: object) -> str:
    if not isinstance(value, str | PathLike):
        raise UsageError(f"'{printable(value, limit=40)}' is no text")
    return fspath(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"'{printable(value, limit=40)}' is neither true nor false")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"'{printable(value, limit=40)}' is no whole number")
    return value


def _size(value: object) -> int:
    return parse_bytes(value) if isinstance(value, str) else _number(value)


def _sizes(value: object) -> dict[int | str, int]:
    """As a mapping, or as `cuda:0=10GiB,cpu=30GiB`."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        return {name.strip(): parse_bytes(size) for name, _, size in parts}
    return {key if isinstance(key, int) else _text(key): _size(size) for key, size in _mapping(value).items()}


def _names(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise UsageError(f"'{printable(value, limit=40)}' is no list of names")
    return tuple(name for part in parts if (name := _text(part).strip()))


def _one_of(known: tuple[str, ...], value: object) -> str:
    name = _text(value)
    if name not in known:
        raise UsageError(f"unknown dtype '{printable(name, limit=40)}'", hint=did_you_mean(name, known) or f"known: {', '.join(known)}")
    return name


def _mapping(value: object) -> Mapping[Any, object]:
    if not isinstance(value, Mapping):
        raise UsageError(f"'{printable(value, limit=40)}' holds no settings by name")
    return value


_PARSERS: Mapping[str, Parser] = {
    "quantization_config": _mapping,
    "backend": partial(_member, Backend),
    "loading_strategy": lambda value: choice(LoadingStrategy, _text(value).replace("-", "_")),
    "method": partial(_member, QuantizationMethod),
    "max_memory": _sizes,
    "memory": _size,
    "resident": _size,
    "use_cache": _flag,
    "bits": _number,
    "group_size": _number,
    "compute_dtype": partial(_one_of, _FLOATS),
    "quant_storage": partial(_one_of, _STORAGES),
    "skip_modules": _names,
}


def _plain(value: Any) -> object:
    if isinstance(value, QuantizationConfig):
        return plain_quantization(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, bool | int) else str(value).removeprefix("torch.")  # texts, dtypes, devices and paths
