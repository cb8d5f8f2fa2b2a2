"""`--quantize auto`: the best precision that fits, by the plan of each and by what is measured from outside the process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Outcome
from peak import peak

import mlload
from mlload import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import load, plan_load, plan_loads
from mlload.loader.planned import PlannedLoad

pytestmark = pytest.mark.filterwarnings("default")  # of bitsandbytes
AUTO = QuantizationConfig(QuantizationMethod.AUTO)
MIB = 1 << 20
SLACK = 12 * MIB  # what the interpreter, and torch's threads take meanwhile
HEAPS = 24 * MIB  # and what malloc keeps of the tensors that HQQ makes on the way
# The precisions that tiny was seen to take, from the best down, and a memory for each.
LADDER = {2_000_000: "bfloat16", 900_000: "int8", 500_000: "nf4", 390_000: "hqq with 2 bits"}


def planned(memory: int, **settings: object) -> PlannedLoad:
    config = ModelLoadingConfig("tiny", device="cpu", memory=memory, quantization_config=AUTO)
    return plan_load(replace(config, **settings))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("memory", "precision"), LADDER.items())
def test_the_first_precision_that_fits_is_taken(memory: int, precision: str) -> None:
    load = planned(memory)
    chosen = load.candidates[-1]
    assert chosen.precision.partition(",")[0] == precision
    assert chosen.fits
    assert chosen.nbytes == load.prediction.peak_bytes <= memory
    assert [each.precision for each in load.candidates if each.fits][0] == precision  # noqa: RUF015  # all before it were too large
    assert load.plan.target_bytes == plan_load(load.settings).plan.target_bytes  # its settings alone lead to it


def test_more_memory_never_leaves_less_of_the_weights() -> None:
    kept = [planned(memory).plan.target_bytes for memory in range(390_000, 1_400_000, 50_000)]
    assert kept == sorted(kept)
    assert len(set(kept)) > 6  # not by the method alone: layer by layer


def test_what_is_left_over_keeps_the_outermost_layers() -> None:
    few, more = planned(900_000), planned(1_100_000)
    kept = set(few.settings.quantization_config.skip_modules), set(more.settings.quantization_config.skip_modules)  # pyright: ignore[reportOptionalMemberAccess]
    assert kept[0] < kept[1]
    assert "model.layers.0" in kept[0] | kept[1]
    for each in (few, more):
        quantized = {unit.name for unit in each.plan.units if unit.is_quantized}
        assert quantized
        assert not quantized & set(each.settings.quantization_config.skip_modules)  # pyright: ignore[reportOptionalMemberAccess]


def test_nothing_fits(run: Callable[..., Outcome]) -> None:
    with pytest.raises(mlload.DoesNotFitError, match=r"even in hqq with 2 bits: .* more than") as refused:
        planned(200_000)
    assert "streamed" in str(refused.value)
    outcome = run("load", "tiny", "--quantize", "auto", "--memory", "50kB")
    assert outcome.code == mlload.DoesNotFitError.exit_code
    assert "allow " in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "3"], "auto chooses how many bits"),
        (["--resident", "1MB"], "auto can't choose for weights that are streamed"),
        (["--device", "mlx"], "auto does not work with the backend mlx"),
    ],
)
def test_what_can_not_be_left_to_it(run: Callable[..., Outcome], options: list[str], words: str) -> None:
    outcome = run("load", "tiny", "--quantize", "auto", *options)
    assert outcome.code == mlload.UsageError.exit_code
    assert words in outcome.err


def test_several_models_share_the_memory() -> None:
    config = ModelLoadingConfig("tiny", device="cpu", memory=1_700_000, quantization_config=AUTO)
    first, second = plan_loads([config, replace(config, quantization_config=None, memory=None)])
    assert first.candidates[-1].precision.startswith("nf4")
    assert second.plan.target_bytes == 1_249_280  # what nobody left to us is as it is
    assert first.prediction.kept_bytes + second.prediction.kept_bytes <= 1_700_000


def test_what_is_quantized_already_stays_as_it_is(tmp_path: Path) -> None:
    nf4 = ModelLoadingConfig("tiny", device="cpu", quantization_config=QuantizationConfig(QuantizationMethod.BNB_NF4))
    loaded = load(nf4)
    loaded.save(tmp_path / "nf4")
    again = plan_load(ModelLoadingConfig(str(tmp_path / "nf4"), device="cpu", memory=2_000_000, quantization_config=AUTO))
    assert again.settings.quantization_config is None
    assert len(again.candidates) == 1


def test_the_plan_shows_what_was_looked_at(run: Callable[..., Outcome]) -> None:
    arguments = ["load", "tiny", "--device", "cpu", "--quantize", "auto", "--memory", "900kB", "--dry-run"]
    report = run(*arguments, "--json").json
    assert report["quantization"]["method"] == "int8"
    assert [line["fits"] for line in report["candidates"]] == [False, True, True]
    shown = run(*arguments).out
    assert "precision" in shown
    assert "bfloat16: 1.19 MiB, does not fit" in shown


@pytest.mark.parametrize(("memory", "precision"), [(70, "int8"), (32, "nf4"), (24, "hqq")])
def test_loading_keeps_to_the_memory(llama_84mb: Path, memory: int, precision: str) -> None:
    """Loading alone: bitsandbytes arranges 4-bit weights anew when they are first used on a CPU."""
    quantization = {"method": "auto"}
    seen = peak(llama_84mb, forwards=0, device="cpu", memory=f"{memory}MiB", quantization_config=quantization, quantized_cache="off")
    assert str(seen.told["precision"]).startswith(precision)
    slack = SLACK + (HEAPS if precision == "hqq" else 0)
    assert seen.pages + max(0, seen.anonymous - slack) <= memory * MIB
