"""Many waits at once: nobody waits for ever, whatever is forgotten meanwhile."""

from __future__ import annotations

import threading

import pytest

from mlload.loader.sources.parallel import Ahead, map_parallel


def test_who_waits_for_a_forgotten_item_still_gets_it() -> None:
    go, results = threading.Event(), list[str]()

    def slow(item: str) -> str:
        go.wait(10)
        return item.upper()

    ahead = Ahead(slow, workers=1)
    ahead.announce(["a", "b"])  # "b" stands in the queue behind "a"
    waiting = threading.Thread(target=lambda: results.append(ahead.result("b")), daemon=True)
    waiting.start()
    ahead.forget("b")
    go.set()
    waiting.join(10)
    assert results == ["B"]
    assert ahead.result("b") == "B"


def test_forgetting_and_asking_at_once_loses_nothing() -> None:
    ahead = Ahead(str, workers=4)

    def ask(number: int) -> str:
        ahead.forget(number % 3)
        return ahead.result(number % 3)

    assert map_parallel(ask, range(3000), workers=8) == [str(number % 3) for number in range(3000)]


def test_the_first_items_error_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        map_parallel(int, ["1", "x", "y"], workers=2)
