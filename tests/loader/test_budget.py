"""One memory for several models: who is streamed, and how much each one gets."""

from __future__ import annotations

from random import Random

import pytest

from mlload.loader.budget import Need, least_together, share_out, together

SMALL, LARGE = Need(peak=12, kept=10, least=3), Need(peak=35, kept=30, least=5)
STUBBORN = Need(peak=25, kept=20)


@pytest.mark.parametrize(
    ("needs", "budget", "shares"),
    [
        ([SMALL], 12, [None]),
        ([SMALL], 11, [11]),
        ([SMALL], 3, [3]),
        ([SMALL], 2, None),
        ([SMALL, LARGE], 45, [None, None]),
        ([LARGE, SMALL], 42, [None, None]),  # the peak of the first is over when the second comes
        ([SMALL, LARGE], 44, [None, 32]),
        ([SMALL, LARGE], 17, [None, 5]),
        ([SMALL, LARGE], 16, [5, 11]),
        ([SMALL, LARGE], 8, [3, 5]),
        ([SMALL, LARGE], 7, None),
        ([STUBBORN, LARGE], 30, [None, 5]),
        ([STUBBORN, LARGE], 29, None),
        ([STUBBORN, STUBBORN], 44, None),
        ([Need(peak=12, kept=10, least=3, is_streamed=True)], 50, [12]),
        ([], 0, []),
    ],
)
def test_shares(needs: list[Need], budget: int, shares: list[int | None] | None) -> None:
    assert share_out(needs, budget) == shares


def test_what_is_shared_out_fits_and_nothing_that_fits_is_refused() -> None:
    random = Random(0)
    for _ in range(2000):
        kept = [random.randint(0, 50) for _ in range(random.randint(1, 5))]
        needs = [Need(each + random.randint(0, 9), each, random.choice([None, random.randint(0, each)])) for each in kept]
        budget = random.randint(0, 150)
        shares = share_out(needs, budget)
        assert (shares is None) == (least_together(needs) > budget)
        if shares is not None:
            whole = [need for need, share in zip(needs, shares, strict=True) if share is None]
            assert together(whole) + sum(share for share in shares if share is not None) <= budget
            assert all(share is None or share >= (need.least or 0) for need, share in zip(needs, shares, strict=True))
