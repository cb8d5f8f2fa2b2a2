"""Texts, one after the other, from wherever they are: a list, lines, a column of a table."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from ...loader.errors import MissingDependencyError, NotFoundError, UsageError
from ...loader.text import did_you_mean, printable

_LARGEST_FIELD = 1 << 26  # characters of a CSV file's field
_ROWS_AT_ONCE = 1_024

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A text, and the characters of it that are asked for, where its table has a column of them."""

    text: str
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called."""

    text: str = "text"
    span: str | None = None

    def example(self, row: Row, place: str) -> Example:
        """The example in a row. Raises UsageError where a column is missing, or holds something else."""
        span = None if self.span is None else _span(_cell(row, self.span, place), place)
        text = _cell(row, self.text, place)
        if not isinstance(text, str):
            raise UsageError(f"{place}: '{self.text}' is no text but {type(text).__name__}", hint="--column names the one that is")
        return Example(text, span)


def read_texts(path: str | os.PathLike[str], columns: Columns = Columns()) -> Iterator[Example]:
    """The examples in a file (`-` for standard input), one after the other: nothing but the current ones is in memory.

    The ending tells how it is read; anything else than jsonl, csv, tsv and parquet is a text a line. Raises NotFoundError, UsageError.
    """
    if columns.span is not None or columns.text != "text":
        _check_has_columns(path)
    for place, row in _reader(path)(path):
        yield columns.example(row, place)


@dataclass(frozen=True)
class TextFile:
    """A file of texts, to be gone over as often as one likes; standard input (`-`) once."""

    path: str
    columns: Columns = Columns()

    def __post_init__(self) -> None:
        """Raises NotFoundError where there is no such file."""
        if self.path != "-" and not os.path.isfile(self.path):
            raise NotFoundError(f"{self.path} can't be read: there is no such file")

    def __iter__(self) -> Iterator[Example]:
        return read_texts(self.path, self.columns)


def read_labels(path: str | os.PathLike[str], column: str) -> list[str]:
    """What stands in a column, as text. Raises NotFoundError, UsageError."""
    _check_has_columns(path)
    return [str(_cell(row, column, place)) for place, row in _reader(path)(path)]


def count_texts(path: str | os.PathLike[str]) -> int | None:
    """How many texts a file has; None where only reading it to its end would tell, and it can be read once."""
    if os.fspath(path) == "-":
        return None
    return sum(1 for _ in _reader(path)(path))


def as_examples(texts: Iterable[str | Example]) -> Iterator[Example]:
    """Texts as examples."""
    return (text if isinstance(text, Example) else Example(text) for text in texts)


def _reader(path: str | os.PathLike[str]) -> Callable[[str | os.PathLike[str]], Iterator[tuple[str, Row]]]:
    return READERS.get(Path(path).suffix.lower(), _lines_as_rows)


def _check_has_columns(path: str | os.PathLike[str]) -> None:
    if _reader(path) is _lines_as_rows:
        raise UsageError(f"{os.fspath(path)} has lines, and no columns", hint="name a .jsonl, .csv, .tsv or .parquet file")


def _cell(row: Row, column: str, place: str) -> Any:
    if column not in row:
        known = ", ".join(printable(name, limit=40) for name in list(row)[:20])
        raise UsageError(f"{place}: there is no column '{column}'", hint=did_you_mean(column, row) or f"its columns: {known}")
    return row[column]


def _span(value: Any, place: str) -> tuple[int, int]:
    parts = value.replace("[", " ").replace("]", " ").replace(":", " ").replace(",", " ").split() if isinstance(value, str) else value
    try:
        first, last = (int(part) for part in parts)
    except (TypeError, ValueError):
        raise UsageError(
            f"{place}: '{printable(value, limit=40)}' is no span", hint="the first character and the one after the last: [3, 7]"
        ) from None
    return first, last


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends. Raises UsageError for one that is not UTF-8."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UsageError(f"{os.fspath(path)}: line {number} is not UTF-8", hint="convert the file") from None
            yield number, text


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    if os.fspath(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise NotFoundError(f"{os.fspath(path)} can't be read: {error.strerror}") from None
    with file:
        yield file


def _lines_as_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(path):
        yield f"line {number}", {"text": line.rstrip("\r\n")}


def _jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(path):
        place = f"{os.fspath(path)}: line {number}"
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{place} is no JSON: {error}") from None
        if row is None:
            continue
        if not isinstance(row, dict):
            raise UsageError(f"{place} is no object", hint='a line is {"text": "..."}')
        yield place, row


def _separated(path: str | os.PathLike[str], separator: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.DictReader((line for _, line in _lines(path)), delimiter=separator)
    try:
        for row in reader:
            yield f"{os.fspath(path)}: line {reader.line_num}", {key: value for key, value in row.items() if key and value is not None}
    except csv.Error as error:
        raise UsageError(f"{os.fspath(path)}: line {reader.line_num} can't be read: {error}") from None


def _csv(path: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    return _separated(path, ",")


def _tsv(path: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    return _separated(path, "\t")


def _parquet(path: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    if find_spec("pyarrow") is None:
        raise MissingDependencyError("a parquet file needs pyarrow to be read", hint='pip install "mlload[parquet]"')
    import pyarrow
    from pyarrow import parquet

    if not Path(path).is_file():
        raise NotFoundError(f"{os.fspath(path)} can't be read: no such file")
    first = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(_ROWS_AT_ONCE):
            for number, row in enumerate(batch.to_pylist(), first):
                yield f"{os.fspath(path)}: row {number}", row
            first += batch.num_rows
    except pyarrow.ArrowException as error:
        raise UsageError(f"{os.fspath(path)} can't be read: {printable(error)}") from None


READERS: Mapping[str, Callable[[str | os.PathLike[str]], Iterator[tuple[str, Row]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
