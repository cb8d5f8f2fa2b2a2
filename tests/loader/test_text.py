"""Numbers that a person reads, and strings that nobody may be hurt by."""

from __future__ import annotations

import pytest

from mlload.loader.text import counted, did_you_mean, format_bytes, format_count, printable


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1536, "1.5 KiB"), (16060522496, "15 GiB"), (2**50 * 3000, "3e+03 PiB")],
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 tensors"), (1, "1 tensor"), (1234, "1,234 tensors")])
def test_counted(count: int, text: str) -> None:
    assert counted(count, "tensor") == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1 K"), (124439808, "124 M"), (8030261248, "8.03 B"), (10**12, "1 T")]
)
def test_format_count(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb", r"a\nb"),
        ("\u202eabc", r"\u202eabc"),
        ("\ud800", r"\ud800"),
        ("größe 模型", "größe 模型"),
    ],
)
def test_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_printable_is_short() -> None:
    assert printable("x" * 10**6, limit=10) == "xxxxxxxxx…"


def test_did_you_mean() -> None:
    assert did_you_mean("tinny", ["tiny", "xlmr"]) == "did you mean 'tiny'?"
    assert did_you_mean("zzz", ["tiny"]) is None
