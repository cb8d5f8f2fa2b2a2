"""Adapters: small weights that are added to those of a base model, as PEFT saves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .architecture.config_view import as_number


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter's own config says of it; None for what it leaves out."""

    method: str | None  # LORA, IA3 ...
    rank: int | None
    alpha: float | None
    target_modules: tuple[str, ...]  # or one expression that their names match
    base_model: str | None

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Adapter:
        """From adapter_config.json, which may hold anything."""
        rank, targets = config.get("r"), config.get("target_modules")
        names = targets if isinstance(targets, list) else [targets]
        return cls(
            method=_text(config.get("peft_type")),
            rank=rank if type(rank) is int else None,
            alpha=as_number(config.get("lora_alpha")),
            target_modules=tuple(sorted({name for name in names if isinstance(name, str)})),
            base_model=_text(config.get("base_model_name_or_path")),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
