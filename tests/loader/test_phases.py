"""Seconds of phases: they add up to the time that passed, however many threads were at work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import pytest

from mlload import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import load
from mlload.loader.phases import PHASES, PhaseClock, phase


def busy(seconds: float) -> None:
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def test_a_phase_inside_another_stops_its_clock() -> None:
    clock, seconds = PhaseClock(), {"convert": 1.0}
    with clock.shared_out(seconds), clock.phase("convert"), clock.phase("read"):
        busy(0.05)
    assert seconds["convert"] - 1 < 0.04  # not the time that was spent reading
    assert seconds["read"] > 0.05


def test_what_threads_do_at_once_adds_up_to_the_time_that_passed() -> None:
    clock, seconds = PhaseClock(), {}

    def work(name: str) -> None:
        with clock.phase(name):
            busy(0.02)

    passed: dict[str, float] = {}
    with phase(passed, "all"), clock.shared_out(seconds), ThreadPoolExecutor(4) as pool:
        list(pool.map(work, ["read", "quantize"] * 8))
    assert sum(seconds.values()) == pytest.approx(passed["all"], abs=0.05)
    assert set(seconds) == {"read", "quantize"}


def test_nothing_measured_is_no_time() -> None:
    clock, seconds = PhaseClock(), {}
    with clock.shared_out(seconds):
        pass
    assert seconds == {}


@pytest.mark.filterwarnings("default")  # of bitsandbytes
def test_a_quantized_load_tells_its_phases() -> None:
    asked = QuantizationConfig(QuantizationMethod.BNB_NF4)
    seconds = load(ModelLoadingConfig("tiny", device="cpu", quantization_config=asked)).seconds
    assert list(seconds)[: len(PHASES)] == list(PHASES)
    assert all(seconds[name] > 0 for name in PHASES)
