"""Models by name: those that ship with mlload, and those of the user's own file, which come first."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

from ..configs import FOLDER, table
from .errors import UsageError
from .text import did_you_mean

ARCHITECTURES = ("encoder_only", "decoder_only", "seq2seq")
POOLINGS = ("mean", "cls", "last", "max", "pooler")
_CHOICES = {"arch": ARCHITECTURES, "pooling": POOLINGS}
_TYPES = {"use_bitsandbytes": bool, "tokenizer_kwargs": dict}  # of the others: text
_FILE_NAMES = ("models.json", "models.toml")


@dataclass(frozen=True)
class ModelSpec:
    """How a model is called, where it lies and how it likes to be run.

    `hf_id`: a hub id or anything else that names a checkpoint. `arch`: encoder_only, decoder_only or seq2seq; None for what its headers
    say. `dtype`: the precision to load it in, None for the checkpoint's own. `use_bitsandbytes`: quantized to 8 bits while loading.
    `tokenizer_kwargs`: for its tokenizer's `from_pretrained`. `pooling`: how its makers get one vector of a text: mean, cls, last, max,
    or pooler (the model's own layer over the first token).
    """

    name: str
    hf_id: str
    arch: str | None = None
    dtype: str | None = None
    use_bitsandbytes: bool = False
    tokenizer_kwargs: Mapping[str, object] | None = None
    pooling: str | None = None
    summary: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Raises UsageError for an architecture or a pooling that is none."""
        for key, known in _CHOICES.items():
            value = getattr(self, key)
            if value is not None and value not in known:
                raise UsageError(f"model '{self.name}': unknown {key} '{value}'", hint=did_you_mean(str(value), known) or ", ".join(known))


def registered_models() -> Mapping[str, ModelSpec]:
    """All models that have a name, by it. Raises UsageError where the user's own file is not as it should be."""
    path, shipped = _users_file(), _shipped()
    own = {} if path is None else _read(path)
    return {**own, **{name: spec for name, spec in shipped.items() if name not in own}}


def find_spec(name: str | os.PathLike[str]) -> ModelSpec | None:
    """The registered model that `name` means, whatever `@revision` follows; a file or folder of that name comes first."""
    text = os.fspath(name)
    return None if os.path.lexists(text) else registered_models().get(text.partition("@")[0])


@cache
def _shipped() -> Mapping[str, ModelSpec]:
    return {name: _spec(name, line, FOLDER, "models.json") for name, line in table("models").items()}


def _users_file() -> Path | None:
    """What MLLOAD_MODELS names, else models.json or models.toml in the user's folder of settings."""
    named = os.environ.get("MLLOAD_MODELS")
    if named:
        if not os.path.isfile(named):
            raise UsageError(f"MLLOAD_MODELS names {named}, which is no file")
        return Path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "mlload"
    return next((home / name for name in _FILE_NAMES if os.path.isfile(home / name)), None)


def _read(path: Path) -> Mapping[str, ModelSpec]:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} can't be read: {error}", hint="it maps names to models, in JSON or TOML") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a table of models", hint='{"name": {"hf_id": "org/model"}}')
    return {name: _spec(name, line, path.parent, str(path)) for name, line in content.items()}


def _spec(name: str, line: object, folder: Path, file: str) -> ModelSpec:
    """A line of a table as a spec; `path` in it is a folder, seen from the table's own."""
    if not isinstance(line, dict):
        raise UsageError(f"{file}: '{name}' is not a table", hint='{"hf_id": "org/model"}')
    keys = [each.name for each in fields(ModelSpec) if each.name != "name"]
    for key, value in line.items():
        if key not in (*keys, "path"):
            hint = did_you_mean(key, keys) or f"known: path, {', '.join(keys)}"
            raise UsageError(f"{file}: '{name}' has an unknown key '{key}'", hint=hint)
        kind = _TYPES.get(key, str)
        if not isinstance(value, kind):
            raise UsageError(f"{file}: '{name}' has a {key} of {value!r}", hint=f"it is a {kind.__name__}")
    if ("path" in line) == ("hf_id" in line):
        raise UsageError(f"{file}: '{name}' names no checkpoint, or two", hint="give hf_id or path")
    where = line["hf_id"] if "hf_id" in line else str(folder / os.path.expanduser(line["path"]))
    return ModelSpec(name, where, **{key: value for key, value in line.items() if key not in ("path", "hf_id")})
