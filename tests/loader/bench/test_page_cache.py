"""The page cache, file by file."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from mlload import MlloadError
from mlload.loader.bench.page_cache import prepare, read_through, residency


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(3 << 20))
    return path


def test_a_file_is_made_cold_and_warm(file: Path) -> None:
    prepare([file], "cold")
    assert residency(file) == 0
    prepare([file], "warm")
    assert residency(file) == 1


def test_half_a_file_is_neither(file: Path) -> None:
    prepare([file], "cold")
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        os.pread(opened.fileno(), 1 << 20, 0)
    assert 0 < residency(file) < 1


def test_what_somebody_has_mapped_is_not_called_cold(file: Path) -> None:
    read_through(file)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert sum(pages[::4096]) >= 0  # touched
        with pytest.raises(MlloadError, match=r"weights is not cold: 100\.0% of its pages are in the page cache"):
            prepare([file], "cold")


def test_nothing_of_an_empty_file_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert residency(tmp_path / "empty") == 0


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MlloadError, match="nothing can't be read: No such file"):
        prepare([tmp_path / "nothing"], "cold")
