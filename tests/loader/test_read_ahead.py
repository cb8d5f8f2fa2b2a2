import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from mlload.loader import read_ahead as ahead
from mlload.loader.read_ahead import begin_reading, read_ahead

MIB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reads a file without copying it, and tells what it has read")


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """20 MiB on disk, none of it in memory."""
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.write(os.urandom(MIB) * 20)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if is_in_memory(path, 10 * MIB):
        pytest.skip("this file system's pages are always in memory")
    return path


def is_in_memory(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4096)], offset, os.RWF_NOWAIT) == 4096
        except BlockingIOError:
            return False
        except OSError as error:
            pytest.skip(f"the file system does not tell what is in the page cache: {error}")


def comes_true(question: Callable[[], bool]) -> bool:
    begun = monotonic()
    while not question():
        if monotonic() - begun > 30:
            return False
    return True


def test_all_that_was_named_is_read_and_nothing_else(cold: Path) -> None:
    with cold.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        read_ahead(file.fileno(), 0, 10 * MIB)
    assert comes_true(lambda: all(is_in_memory(cold, offset) for offset in range(0, 10 * MIB, 64 << 10)))
    assert not is_in_memory(cold, 19 * MIB)


def test_what_is_in_memory_is_known(cold: Path) -> None:
    with cold.open("rb") as file:
        assert not ahead.is_in_memory(file.fileno(), 0, 20 * MIB)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.preadv(file.fileno(), [bytearray(MIB)], 4096)
        if not ahead.is_in_memory(file.fileno(), 4096, MIB):
            pytest.skip("this kernel does not tell")
        assert not ahead.is_in_memory(file.fileno(), 4095, MIB)
        assert not ahead.is_in_memory(file.fileno(), 4096, 2 * MIB)


@pytest.mark.parametrize("is_idle", [True, False])
def test_whole_files_while_something_else_is_done(cold: Path, is_idle: bool) -> None:
    begin_reading([cold.with_name("missing"), cold], is_idle=is_idle)
    assert comes_true(lambda: is_in_memory(cold, 0) and is_in_memory(cold, 20 * MIB - 4096))
