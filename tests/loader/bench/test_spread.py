"""Numbers of several runs in few."""

from __future__ import annotations

import random

from mlload.loader.bench.spread import Ratio, Spread


def test_middle_and_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(median=2.5, min=1.0, max=10.0)


def test_a_ratio_is_taken_pair_by_pair() -> None:
    drifting = [(2.0 * slow, 1.0 * slow) for slow in (1.0, 5.0, 20.0)]
    assert Ratio.of(drifting) == Ratio(2.0, 2.0, 2.0)


def test_two_pairs_have_no_interval() -> None:
    assert Ratio.of([(1.0, 2.0), (3.0, 2.0)]) == Ratio(1.0, None, None)


def test_an_interval_around_one_is_unclear_if_it_is_wide() -> None:
    assert Ratio(1.0, 0.9, 1.2).is_unclear
    assert not Ratio(1.0, 0.98, 1.02).is_unclear
    assert not Ratio(1.2, 1.1, 1.4).is_unclear
    assert not Ratio(1.0, None, None).is_unclear


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    source, held = random.Random(1), 0
    for _ in range(40):
        ratio = Ratio.of([(source.gauss(1.2, 0.1), 1.0) for _ in range(12)])
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= 1.2 <= ratio.high
    assert held >= 34
