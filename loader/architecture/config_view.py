"""config.json read by meaning: one name for a size, whatever the family calls it, in the section of the text model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from ...configs import table

Config = Mapping[str, object]

# Sections of composite configs that hold the text model, most telling first.
_TEXT_SECTIONS = (
    "text_config",
    "llm_config",
    "language_config",
    "language_model_config",
    "thinker_config",
    "text_model_config",
    "decoder",
    "text_encoder",
    "generator",
)
_PART_SECTIONS = ("ffn_config", "attn_config", "moe")
MAX_NUMBER = 10**12  # beyond any size a model has: a hostile number must not reach arithmetic on floats


class ConfigView:
    """Lookups in a config that may be nested, may name things its own way, and may hold anything at all."""

    def __init__(self, config: Config | None) -> None:
        self.whole: Config = config or {}
        self.text: Config = _text_section(self.whole)

    def get(self, key: str) -> object:
        """The value under `key` or one of its aliases, of the text section first; None where there is none."""
        parts = (part for key in _PART_SECTIONS if isinstance(part := self.text.get(key), dict))
        for section in (self.text, self.whole, *parts):
            for alias in table("config_keys").get(key, (key,)):
                if section.get(alias) is not None:
                    return section[alias]
        return None

    def integer(self, key: str) -> int | None:
        """A count; None where it is missing or not a sensible one."""
        value = self.get(key)
        return value if type(value) is int and 0 <= value <= MAX_NUMBER else None

    def number(self, key: str) -> float | None:
        """A finite number; None where it is missing or none."""
        return as_number(self.get(key))

    def string(self, key: str) -> str | None:
        """A string; None where it is missing or something else."""
        value = self.get(key)
        return value if isinstance(value, str) else None

    def flag(self, key: str) -> bool | None:
        """A truth value; None where it is missing or something else."""
        value = self.get(key)
        return value if isinstance(value, bool) else None

    @property
    def model_type(self) -> str | None:
        """The family, of the whole model."""
        value = self.whole.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def family(self) -> str | None:
        """What the config calls the model's design: `model_type`, or `architecture` (timm)."""
        value = self.whole.get("architecture")
        return self.model_type or (value if isinstance(value, str) else None)

    @property
    def text_type(self) -> str | None:
        """The family, of the text model."""
        value = self.text.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def class_name(self) -> str | None:
        """The first of the classes that the config names."""
        names = self.whole.get("architectures")
        first = names[0] if isinstance(names, list) and names else None
        return first if isinstance(first, str) else None

    def section(self, key: str) -> Config:
        """A nested section, empty where there is none."""
        value = self.whole.get(key)
        return value if isinstance(value, dict) else {}


def as_number(value: object) -> float | None:
    """`value` as a float if it is a finite number of sensible size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if (isinstance(value, int) or math.isfinite(value)) and abs(value) <= MAX_NUMBER else None


def _text_section(config: Config) -> Config:
    """The innermost section for text; in a loop, as a hostile config may nest thousands."""
    while True:
        section = next((config[key] for key in _TEXT_SECTIONS if isinstance(config.get(key), dict)), None)
        if section is None:
            return config
        config = cast("Config", section)
