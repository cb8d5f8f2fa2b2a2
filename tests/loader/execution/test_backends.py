"""What each backend does on machines that are declared, not there: the probe is the seam."""

from __future__ import annotations

import pytest
import torch

import mlload
from mlload import Backend, LoadingStrategy
from mlload.loader.execution.backends import BACKENDS, Device, Hardware, choose_backend, probe

GIB = 1 << 30
CPU = Hardware(cores=8, free_bytes=32 * GIB)
A100 = Hardware(cores=32, free_bytes=200 * GIB, cuda=(Device("A100", 80 * GIB, 70 * GIB), Device("A100", 80 * GIB, 20 * GIB)))
T4 = Hardware(cores=4, free_bytes=12 * GIB, cuda=(Device("T4", 15 * GIB, 14 * GIB, bfloat16=False),))
M2 = Hardware(cores=8, free_bytes=16 * GIB, mps=Device("mps", 16 * GIB, 12 * GIB))
M2_WITH_MLX = Hardware(cores=8, free_bytes=16 * GIB, mps=M2.mps, mlx=Device("mps", 16 * GIB, 14 * GIB))
OLD_MAC = Hardware(cores=8, free_bytes=8 * GIB, mps=Device("mps", 8 * GIB, 6 * GIB, bfloat16=False))


@pytest.mark.parametrize(
    ("hardware", "backend", "device"),
    [(CPU, Backend.CPU, "cpu"), (A100, Backend.CUDA, "cuda"), (M2, Backend.MPS, "mps")],
    ids=["cpu", "cuda", "mps"],
)
def test_the_best_that_is_there_is_taken(hardware: Hardware, backend: Backend, device: str) -> None:
    rules, place = choose_backend(hardware, None, None)
    assert (rules.backend, place) == (backend, torch.device(device))


@pytest.mark.parametrize(
    ("hardware", "backend", "dtype"),
    [
        (CPU, Backend.CPU, torch.bfloat16),
        (A100, Backend.CUDA, torch.bfloat16),
        (T4, Backend.CUDA, torch.float16),
        (M2, Backend.MPS, torch.bfloat16),
        (OLD_MAC, Backend.MPS, torch.float16),
    ],
)
def test_bfloat16_becomes_float16_where_it_is_not_computed_in(hardware: Hardware, backend: Backend, dtype: torch.dtype) -> None:
    assert BACKENDS[backend].dtype(hardware, torch.bfloat16) == dtype
    assert BACKENDS[backend].dtype(hardware, torch.float32) == torch.float32


@pytest.mark.parametrize(
    ("hardware", "backend", "workers", "quantized"),
    [(CPU, Backend.CPU, 8, 8), (A100, Backend.CUDA, 2, 1), (T4, Backend.CUDA, 1, 1), (M2, Backend.MPS, 4, 4)],
)
def test_workers(hardware: Hardware, backend: Backend, workers: int, quantized: int) -> None:
    rules = BACKENDS[backend]
    assert (rules.workers(hardware, quantized=False), rules.workers(hardware, quantized=True)) == (workers, quantized)


def test_a_second_device_is_loaded_to_by_its_number() -> None:
    assert choose_backend(A100, None, "cuda:1")[1] == torch.device("cuda:1")
    with pytest.raises(mlload.DoesNotFitError, match="'cuda:2'"):
        choose_backend(A100, None, "cuda:2")


@pytest.mark.parametrize("asked", [Backend.CUDA, Backend.MPS])
def test_what_is_not_there_is_an_error(asked: Backend) -> None:
    with pytest.raises(mlload.DoesNotFitError, match=asked.value):
        choose_backend(CPU, asked, None)


def test_mlx_is_taken_only_where_it_is_asked_for() -> None:
    assert choose_backend(M2_WITH_MLX, None, None)[0].backend is Backend.MPS
    rules, place = choose_backend(M2_WITH_MLX, Backend.MLX, None)
    assert (rules.backend, place) == (Backend.MLX, torch.device("mps"))
    assert (rules.workers(M2_WITH_MLX, quantized=False), rules.workers(M2_WITH_MLX, quantized=True)) == (4, 1)
    assert probe().mlx is None


def test_mlx_that_is_not_installed_names_the_extra() -> None:
    with pytest.raises(mlload.MissingDependencyError, match=r"mlload\[mlx\]"):
        choose_backend(M2, Backend.MLX, None)


@pytest.mark.parametrize("backend", [Backend.MPS, Backend.MLX])
def test_apple_shares_its_memory(backend: Backend) -> None:
    assert BACKENDS[backend].strategy() is LoadingStrategy.UNIFIED_MEMORY


def test_this_machine_has_cores_and_memory() -> None:
    hardware = probe()
    assert hardware.cores >= 1
    assert hardware.free_bytes > 0
    assert bool(hardware.cuda) == torch.cuda.is_available()
