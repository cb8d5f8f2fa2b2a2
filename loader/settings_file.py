"""What is asked of loading as a file, YAML or TOML: keys are the fields of ModelLoadingConfig, and below it those of QuantizationConfig."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable
from os import PathLike, fspath
from pathlib import Path

import yaml

from .errors import InvalidCheckpointError, NotFoundError, UsageError
from .settings import ModelLoadingConfig
from .settings_mapping import Values, parse_settings, plain_settings
from .sources.local import read_small
from .text import printable

_MAX_BYTES = 1 << 16
_TOML_LINE = re.compile(r"(?P<problem>.*) \(at line (?P<line>\d+), column \d+\)", re.DOTALL)


def read_settings(path: str | PathLike[str]) -> Values:
    """The settings in a `.yaml`, `.yml` or `.toml` file, by name.

    Raises NotFoundError where there is no such file, UsageError, with its name and line, for what is no settings.
    """
    name = printable(fspath(path))
    suffix = Path(path).suffix.lower()
    if suffix not in (".yaml", ".yml", ".toml"):
        raise UsageError(f"{name} is neither .yaml nor .toml", hint="its ending says how it is written")
    text = _text(Path(path), name)
    try:
        found = tomllib.loads(text) if suffix == ".toml" else yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _wrong(name, error.problem or error.context, None if mark is None else mark.line + 1) from None
    except tomllib.TOMLDecodeError as error:
        where = _TOML_LINE.fullmatch(str(error))
        raise _wrong(name, where["problem"] if where else error, int(where["line"]) if where else None) from None
    except RecursionError:
        raise _wrong(name, "is nested too deeply", None) from None
    except (ValueError, yaml.YAMLError) as error:  # dates that are none, numbers that are too long, characters that are not taken
        raise _wrong(name, str(error).partition("\n")[0], None) from None
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"{name}: holds no settings by name", hint="write them as `dtype: bfloat16`")
    return parse_settings(found or {}, where=f"{name}: ")


def settings_text(config: ModelLoadingConfig) -> str:
    """`config` as YAML that `read_settings` reads: what differs from the defaults."""
    return yaml.safe_dump(plain_settings(config), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML without what can blow up or hide something: no aliases, no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def _text(path: Path, name: str) -> str:
    if not path.exists():
        raise NotFoundError(f"there is no file {name}")
    try:
        return read_small(path, name, limit=_MAX_BYTES).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{name}: is not UTF-8") from None
    except InvalidCheckpointError as error:
        raise UsageError(error.message) from None


def _wrong(name: str, problem: object, line: int | None) -> UsageError:
    where = name if line is None else f"{name}, line {line}"
    return UsageError(f"{where}: {printable(problem)}")
