"""A checkpoint's config in the words of mlx-lm's classes.

They were written for configs that name every value. transformers 5 leaves out what its own classes have for a default, which need not be
mlx-lm's, and keeps rotary settings in one place: taken as it stands, such a config makes another model without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

Config = dict[str, Any]


def in_mlx_words(config: Mapping[str, Any], arguments: type) -> Config:
    """`config` with what the parameters of `arguments` want and transformers' class knows. What is written stays as it is."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return _with_rotary_settings(dict(config), config)
    completed = _completed(config, CONFIG_MAPPING[model_type].from_dict(dict(config)))
    wanted = {*config, *signature(arguments).parameters}
    return {key: value for key, value in completed.items() if key in wanted}


def _completed(config: Mapping[str, Any], built: PretrainedConfig) -> Config:
    known = {key: value for key, value in built.to_dict().items() if value is not None}
    older = {older: known[name] for older, name in built.attribute_map.items() if name in known}
    own = dict(config)
    for name in _parts(config, built):
        own[name] = _completed(config[name], getattr(built, name))
    return _with_rotary_settings(older | known | own, own)


def _parts(config: Mapping[str, Any], built: PretrainedConfig) -> Iterable[str]:
    """Configs within the config."""
    return (key for key in built.sub_configs if isinstance(config.get(key), dict) and isinstance(getattr(built, key), PretrainedConfig))


def _with_rotary_settings(config: Config, own: Mapping[str, Any]) -> Config:
    """With `rope_parameters` where their values stood before transformers 5, unless they stand there."""
    rope = config.get("rope_parameters") or {}
    everywhere, local = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    older = {key: everywhere[key] for key in ("rope_theta", "partial_rotary_factor") if key in everywhere}
    if everywhere:
        older["rope_scaling"] = everywhere if everywhere.get("rope_type", "default") != "default" else None
    if "rope_theta" in local:
        older["rope_local_base_freq"] = local["rope_theta"]
    return {**config, **older, **own}
