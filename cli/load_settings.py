"""What a command line, and the file that it names, ask of loading: options that are given win over the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..loader.settings import ModelLoadingConfig

# Parameters of the command, and the settings that they are; below "quantization_config" the second ones.
_SETTINGS = {
    "dtype": "dtype",
    "device": "device",
    "strategy": "loading_strategy",
    "memory": "memory",
    "max_memory": "max_memory",
    "offload_to_cpu": "offload_to_cpu",
    "resident": "resident",
    "cache": "quantized_cache",
    "workers": "loading_workers",
    "attention": "attn_implementation",
    "use_cache": "use_cache",
    "llama_pro": "llama_pro_path",
    "rank": "rank",
    "world_size": "world_size",
    "verbose": "verbose",
    "mmap": "mmap",
    "trim": "trim",
    "allow_missing": "allow_missing",
    "trust_remote_code": "trust_remote_code",
}
_QUANTIZATION = {
    "quantize": "method",
    "bits": "bits",
    "group_size": "group_size",
    "axis": "axis",
    "double_quant": "double_quant",
    "compute_dtype": "compute_dtype",
    "quant_storage": "quant_storage",
    "skip_modules": "skip_modules",
}


def all_settings(context: typer.Context) -> list[ModelLoadingConfig]:
    """The settings of each model that is named. Raises UsageError where there is none, and for what can't be asked."""
    from ..loader.settings_mapping import build_settings, merged, parse_settings

    given = {name: value for name, value in context.params.items() if _is_given(context, name) and value is not None}
    plain = {setting: given[name] for name, setting in _SETTINGS.items() if name in given}
    quantization = {setting: given[name] for name, setting in _QUANTIZATION.items() if name in given}
    values = parse_settings(plain | ({"quantization_config": quantization} if quantization else {}))
    if "config" in given:
        from ..loader.settings_file import read_settings

        values = merged(read_settings(given["config"]), values)
    models = given.get("models") or [values.get("model_name")]
    return [build_settings({**values, "model_name": model}) for model in models]


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
