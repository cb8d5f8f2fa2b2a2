import gc

import pytest

from mlload.loader.before_imports import without_collector


def test_the_collector_rests_and_works_again() -> None:
    with without_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert not gc.get_freeze_count()
    with pytest.raises(ImportError), without_collector():
        raise ImportError
    assert gc.isenabled()


def test_who_has_it_off_or_keeps_objects_from_it_finds_both_as_they_were() -> None:
    gc.disable()
    gc.freeze()
    frozen = gc.get_freeze_count()
    with without_collector():
        pass
    assert not gc.isenabled()
    gc.enable()
    with without_collector():
        pass
    assert 0 < gc.get_freeze_count() <= frozen
    gc.unfreeze()
