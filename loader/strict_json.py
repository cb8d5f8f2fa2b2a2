"""JSON from untrusted files: bounded in size, depth and number of values before it takes any memory."""

from __future__ import annotations

import json
from codecs import BOM_UTF8

from .errors import InvalidCheckpointError

_MAX_VALUES = 1_200_000  # commas and brackets; a header of 100,000 tensors has some 900,000
_MAX_QUOTES = 1_200_000  # keys and texts cost the most memory: 300 bytes each; an index of 250,000 tensors has a million quotes
_MAX_DEPTH = 100  # far below where Python's own recursion ends, on whatever is done with it later
_MAX_WIDE_BYTES = 25_000_000  # non-ASCII text takes up to four bytes a character once decoded


class _DuplicateKeyError(ValueError):
    pass


def parse_object(data: bytes, *, file: str, unique_keys: bool = False) -> dict[str, object]:
    """The JSON object that `data` holds.

    Raises InvalidCheckpointError, naming `file`, for anything else: bad UTF-8 or JSON, nesting too deep, giant numbers,
    more values than any checkpoint has and, with `unique_keys`, a key written twice.
    """
    _check_budget(data, file)
    if data.startswith(BOM_UTF8):
        message = "begins with a byte order mark (BOM), which JSON may not have"
        raise InvalidCheckpointError(message, file=file, hint="save it as UTF-8 without a BOM")
    try:
        text = data.decode()
        del data  # 100 MB of it must not stay beside its text and what is parsed from that
        value = json.loads(text, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise InvalidCheckpointError("JSON is nested too deeply", file=file) from None
    except _DuplicateKeyError as error:
        raise InvalidCheckpointError("the key stands twice in the JSON", file=file, tensor=str(error)) from None
    except UnicodeDecodeError as error:
        raise InvalidCheckpointError(f"JSON is not UTF-8 at byte {error.start}", file=file) from None
    except ValueError as error:  # JSONDecodeError, and integers beyond Python's digit limit
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long"
        raise InvalidCheckpointError(f"not valid JSON: {reason}", file=file) from None
    if not isinstance(value, dict):
        raise InvalidCheckpointError(f"JSON holds a {type(value).__name__}, not an object", file=file)
    # Those whose keys are unique are flat tables, which their readers check entry by entry.
    if not unique_keys and _is_deeper(value, _MAX_DEPTH):
        raise InvalidCheckpointError("JSON is nested too deeply", file=file)
    return value


def _is_deeper(value: object, depth: int) -> bool:
    """Whether more than `depth` objects and lists lie in one another."""
    level = [value]
    for _ in range(depth):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
    return bool(level)


def _check_budget(data: bytes, file: str) -> None:
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES:
        raise InvalidCheckpointError(f"JSON holds more than {_MAX_VALUES:,} values", file=file)
    if data.count(b'"') > _MAX_QUOTES:
        raise InvalidCheckpointError(f"JSON holds more than {_MAX_QUOTES // 2:,} texts", file=file)
    if len(data) > _MAX_WIDE_BYTES and not data.isascii():
        raise InvalidCheckpointError(f"JSON has {len(data):,} bytes of non-ASCII text", file=file)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return result
