"""The safetensors header reader, with the format's own library as judge; its refusals are in the hostile suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mlload.loader.formats.safetensors import read_header
from mlload.loader.sources.local import LocalFile

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
NEWER = [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64, torch.complex64]
SHAPES = [(), (0,), (3,), (2, 3), (2, 0, 3), (1, 2, 3, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors = {
        f"{dtype}.{number}": torch.randint(0, 2, shape).to(dtype) for dtype in [*DTYPES, *NEWER] for number, shape in enumerate(SHAPES)
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt", "größe": "1"})
    return tmp_path / "model.safetensors"


def test_names_dtypes_and_shapes_are_the_librarys(path: Path) -> None:
    with LocalFile(path, path.name) as file:
        header = read_header(file)
    with safe_open(path, "pt") as judge:
        slices = {name: judge.get_slice(name) for name in judge.keys()}  # noqa: SIM118  (not a mapping)
        assert {entry.name: (entry.dtype, list(entry.shape)) for entry in header.tensors} == {
            name: (each.get_dtype(), each.get_shape()) for name, each in slices.items()
        }
        assert header.metadata == judge.metadata()


def test_bytes_stand_where_the_header_says(path: Path) -> None:
    with LocalFile(path, path.name) as file, safe_open(path, "pt") as judge:
        for entry in read_header(file).tensors:
            tensor = judge.get_tensor(entry.name)
            assert file.read(entry.offset, entry.nbytes) == bytes(tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else b"")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x8B1F, 0x0A0D, 0x2020])
def test_a_length_that_looks_like_another_formats_first_bytes(tmp_path: Path, length: int) -> None:
    header = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + b"1")
    with LocalFile(path, path.name) as file:
        assert [tensor.name for tensor in read_header(file).tensors] == ["w"]
