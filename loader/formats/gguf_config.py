"""The part of config.json that the metadata of a GGUF file holds, under the names of config.json.

The table configs/gguf.json names the metadata key that each key of config.json comes from; `{}` stands for the architecture. Its
`model_types` are llama.cpp's architectures whose model_type is written otherwise; the rest have one name in both worlds.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from ...configs import table
from .gguf import LongArray


def config_from_metadata(metadata: Mapping[str, object]) -> dict[str, object]:
    """What the metadata of a GGUF file says under the keys of config.json; only what is there."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        return {}
    names = table("gguf")
    config: dict[str, object] = {"model_type": names["model_types"].get(architecture, architecture)}
    config |= _translated(metadata, architecture, names["config"])
    if "kv_lora_rank" in config:  # older files give the heads' widths as any model does; newer ones the latent's, and the heads' apart
        config |= _translated(metadata, architecture, names["latent"]) | _translated(metadata, architecture, names["heads_of_latent"])
    scaling = _translated(metadata, architecture, names["rope_scaling"])
    if scaling.get("rope_type", "none") != "none":
        config["rope_scaling"] = scaling
    tokens = metadata.get("tokenizer.ggml.tokens")
    if "vocab_size" not in config and isinstance(tokens, (tuple, LongArray)):
        config["vocab_size"] = len(tokens) if isinstance(tokens, tuple) else tokens.length
    return config


def file_type(metadata: Mapping[str, object]) -> str | None:
    """What most of its tensors are quantized to, by llama.cpp's name for the mixture (`Q4_K_M`); None where it is not said."""
    number = metadata.get("general.file_type")
    return table("gguf")["file_types"].get(str(number)) if type(number) is int else None


def _translated(metadata: Mapping[str, object], architecture: str, keys: Mapping[str, str]) -> dict[str, object]:
    values = {name: _plain(metadata.get(key.replace("{}", architecture))) for name, key in keys.items()}
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: object) -> object:
    """A value as config.json has it: a list of one number for every layer becomes the number where all are equal."""
    if isinstance(value, tuple):
        if value and all(item == value[0] for item in value):
            return _plain(value[0])
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return _shortest(value)
    return None if isinstance(value, LongArray) else value


def _shortest(value: float) -> float:
    """The shortest decimal that is the same 32-bit float: 1e-05 rather than 9.999999747378752e-06."""
    try:
        single = struct.pack("<f", value)
    except OverflowError:
        return value
    if struct.unpack("<f", single)[0] != value:
        return value
    return next((near for digits in range(6, 9) if struct.pack("<f", near := float(f"{value:.{digits}g}")) == single), value)
