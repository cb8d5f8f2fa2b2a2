"""What users write for layers, tokens and files, and what is said where it is wrong."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mlload
from mlload.runners.probing.encoding import TokenChoice
from mlload.runners.probing.layer_choice import choose_layers
from mlload.runners.probing.texts import Columns, Example, count_texts, read_labels, read_texts
from mlload.runners.probing.windows import batches, windows

LAYERS = {
    "all": (None, tuple(range(13))),
    "listed": ("0,6,12", (0, 6, 12)),
    "last": ("-1", (12,)),
    "range": ("0:13:2", (0, 2, 4, 6, 8, 10, 12)),
    "open-range": ("-3:", (10, 11, 12)),
    "mixed": ("6, 0:3,6", (0, 1, 2, 6)),
    "numbers": ([-1, 0], (0, 12)),
}


@pytest.mark.parametrize(("asked", "wanted"), LAYERS.values(), ids=list(LAYERS))
def test_layers(asked: Any, wanted: tuple[int, ...]) -> None:
    assert choose_layers(asked, 13) == wanted


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("13", "no layer 13; they are 0"),
        ("-14", "no layer -14"),
        ("5:5", "no layer is in '5:5'"),
        ("a", "'a' names no layers"),
        ("::0", "names"),
    ],
)
def test_layers_that_are_not_there(asked: str, words: str) -> None:
    with pytest.raises(mlload.UsageError, match=words):
        choose_layers(asked, 13)


def test_tokens_by_word_and_by_characters() -> None:
    example = Example("The bank, a bank.", span=(4, 8))
    assert TokenChoice("words").spans(example) == [(0, 3), (4, 8), (10, 11), (12, 16)]
    assert TokenChoice("word:bank").spans(example) == [(4, 8), (12, 16)]
    assert TokenChoice("word:banks").spans(example) == []
    assert TokenChoice("2:5").spans(example) == [(2, 5)]
    assert TokenChoice("span").spans(example) == [(4, 8)]
    with pytest.raises(mlload.UsageError, match="'nouns' names no tokens"):
        TokenChoice("nouns")
    with pytest.raises(mlload.UsageError, match="the texts bring no spans; --span-column"):
        TokenChoice("span").spans(Example("a"))


ROWS = [{"text": "a bank", "words": "x", "at": [2, 6]}, {"text": "zwei\nZeilen, é", "words": "y", "at": [0, 4]}]


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"texts{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    elif suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="the parquet extra")
        parquet.write_table(sys.modules["pyarrow"].Table.from_pylist(ROWS), path)
    else:
        separator = "," if suffix == ".csv" else "\t"
        lines = [separator.join(('"' + row["text"] + '"', row["words"], '"2:6"')) for row in ROWS]
        path.write_text("\n".join([separator.join(("text", "words", "at")), *lines]), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_tables_of_texts(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    assert [example.text for example in read_texts(path)] == [row["text"] for row in ROWS]
    assert count_texts(path) == 2
    examples = list(read_texts(path, Columns("words", span="at")))
    assert examples[0] == Example("x", (2, 6))
    assert read_labels(path, "words") == ["x", "y"]
    with pytest.raises(mlload.UsageError, match="there is no column 'word'; did you mean 'words'"):
        list(read_texts(path, Columns("word")))


def test_lines_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.txt").write_bytes("a\n\nb c\r\né".encode())
    wanted = [Example("a"), Example(""), Example("b c"), Example("é")]
    assert list(read_texts(tmp_path / "texts.txt")) == wanted
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("a\n\nb c\r\né".encode())))
    assert list(read_texts("-")) == wanted


WRONG = {
    "utf-8": ("t.txt", b"a\n\xff\n", {}, "line 2 is not UTF-8"),
    "json": ("t.jsonl", b'{"text": "a"}\n{', {}, "line 2 is no JSON"),
    "object": ("t.jsonl", b"[1]", {}, "line 1 is no object"),
    "number": ("t.jsonl", b'{"text": 3}', {}, "'text' is no text but int"),
    "lines": ("t.txt", b"a", {"text": "body"}, "has lines, and no columns"),
    "span": ("t.jsonl", b'{"text": "a", "at": "x"}', {"span": "at"}, "'x' is no span"),
    "parquet": ("t.parquet", b"PAR1", {}, "can't be read"),
}


@pytest.mark.parametrize(("name", "content", "columns", "words"), WRONG.values(), ids=list(WRONG))
def test_wrong_files(tmp_path: Path, name: str, content: bytes, columns: dict[str, str], words: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="the parquet extra")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(mlload.UsageError, match=words):
        list(read_texts(tmp_path / name, Columns(**columns)))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(mlload.NotFoundError, match=r"nothing\.txt can't be read: No such file"):
        list(read_texts("nothing.txt"))


def test_windows_hold_neighbours_within_limits() -> None:
    examples = [Example("x" * length) for length in (5, 5, 5, 50, 1, 1, 1)]
    cut = list(windows(iter(examples), most_texts=3, most_characters=12))
    assert [len(window.examples) for window in cut] == [2, 1, 1, 3]
    assert [window.first for window in cut] == [0, 2, 3, 4]
    assert len({window.digest for window in cut}) == 4


def test_batches_keep_to_the_budget_and_hold_like_lengths() -> None:
    lengths = [3, 9, 0, 1, 4, 4, 100]
    made = batches(lengths, 16)
    assert made == [[6], [1], [4, 5, 0, 3]]
    assert all(len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= 16 for batch in made)
