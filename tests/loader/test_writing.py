import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mlload.loader.writing import replacing, write_past_cache

BLOCK = 4 << 20
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(params=["a disk", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "a disk":
        yield tmp_path / "file"
        return
    if not SHARED_MEMORY.is_dir():
        pytest.skip("this system has no file system in memory")
    path = SHARED_MEMORY / f"mlload-test-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("sizes", [(), (1,), (BLOCK,), (BLOCK - 1, 0, 2), (3, 3 * BLOCK + 777, 5), (BLOCK, BLOCK)], ids=str)
def test_every_byte_is_written_past_the_page_cache(path: Path, sizes: Sequence[int]) -> None:
    contents = [os.urandom(size) for size in sizes]
    with replacing(path) as descriptor:
        write_past_cache(descriptor, map(memoryview, contents))
    assert path.read_bytes() == b"".join(contents)


def test_where_a_file_may_not_grow_so_far_nothing_is_left(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK + BLOCK // 2, before[1]))
    try:
        with pytest.raises(OSError, match="too large"), replacing(path) as descriptor:
            write_past_cache(descriptor, [memoryview(bytes(3 * BLOCK))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    assert not list(path.parent.glob(f".{path.name}*"))
