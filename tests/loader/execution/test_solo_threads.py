import pytest
import torch

from mlload.loader.execution.solo_threads import solo_threads


def test_each_thread_computes_alone_and_torch_is_as_before() -> None:
    before = torch.get_num_threads()
    with solo_threads(2) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    assert torch.get_num_threads() == before


def test_after_an_error_torch_is_as_before() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), solo_threads(2) as pool:
        pool.submit(lambda: 1 // 0).result()
    assert torch.get_num_threads() == before
