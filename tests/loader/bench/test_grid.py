"""Lists of options as rows."""

from __future__ import annotations

import pytest

from mlload import BenchGrid, UsageError
from mlload.loader.bench.case import Case
from mlload.loader.bench.engines import ENGINES


def test_engines_stand_side_by_side_and_know_only_what_they_know() -> None:
    grid = BenchGrid(engines=("mlload", "transformers"), strategies=("full", "low-memory"), quantize=("none", "nf4"), workers=(2,))
    assert [case.label for case in grid.cases()] == [
        "mlload full 2 workers",
        "transformers",
        "mlload low_memory 2 workers",
        "mlload full nf4 2 workers",
        "transformers nf4",
        "mlload low_memory nf4 2 workers",
    ]


def test_every_case_has_a_label_of_its_own() -> None:
    grid = BenchGrid(
        tuple(ENGINES), (None, "full"), ("none", "hqq"), (None, "cpu"), ("auto", "float32"), (-1, 1), page_caches=("warm", "cold")
    )
    labels = [case.label for case in grid.cases()]
    assert len(labels) == len(set(labels))
    assert Case("mlload").label == "mlload"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (BenchGrid(engines=("transformer",)), "unknown engine 'transformer'; did you mean 'transformers'?"),
        (BenchGrid(strategies=("fast",)), "unknown strategy 'fast'"),
        (BenchGrid(quantize=("nf5",)), "unknown quantization method 'nf5'"),
        (BenchGrid(dtypes=("int3",)), "unknown dtype 'int3'"),
        (BenchGrid(page_caches=("hot",)), "unknown page cache 'hot'; known: warm, cold"),
    ],
)
def test_unknown_names_are_refused(grid: BenchGrid, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        grid.cases()
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_a_module_with_a_program(name: str) -> None:
    from importlib import import_module

    module, attribute = ENGINES[name].program.split(":")
    assert callable(getattr(import_module(module, "mlload.loader.bench.engines"), attribute))
    assert ENGINES[name].summary
