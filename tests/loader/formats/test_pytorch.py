"""The PyTorch reader against torch.save and torch.load, and against hand-made bad archives and pickles."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import mlload
from mlload.loader.errors import InvalidCheckpointError
from mlload.loader.formats import pytorch
from mlload.loader.formats.pytorch import read_header
from mlload.loader.tensors import FileHeader, Strided, TensorEntry, shared_tensors

DTYPES = [
    *("float32", "float64", "float16", "bfloat16", "complex64", "bool", "uint8", "int8", "int16", "int32", "int64"),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
LEGACY = pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])


@dataclass
class Memory:
    """A file's bytes as a source that counts its reads."""

    data: bytes
    name: str = "model.bin"
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]


def saved(value: object, *, new_format: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new_format)
    return buffer.getvalue()


def read(data: bytes) -> FileHeader:
    return read_header(Memory(data))


def entries(data: bytes) -> dict[str, TensorEntry]:
    return {tensor.name: tensor for tensor in read(data).tensors}


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


def random_tensor(dtype: str, *shape: int) -> torch.Tensor:
    width = getattr(torch, dtype).itemsize
    values = torch.randint(0, 2 if dtype == "bool" else 256, (*shape, width), dtype=torch.uint8)
    return values.view(getattr(torch, dtype)).reshape(shape)


# torch.save as judge


@LEGACY
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_every_dtype(dtype: str, new_format: bool) -> None:
    state = {"first": torch.ones(3), "w": random_tensor(dtype, 5, 3), "last": torch.ones(3)}
    data = saved(state, new_format=new_format)

    found = entries(data)

    assert list(found) == list(state)
    for name, tensor in state.items():
        entry = found[name]
        assert (entry.shape, entry.nbytes) == (tuple(tensor.shape), tensor.nbytes)
        assert data[entry.offset : entry.offset + entry.nbytes] == raw(tensor)


@LEGACY
def test_bytes_of_views_scalars_empties_and_parameters(new_format: bool) -> None:
    base = torch.randn(6, 4)
    state = {
        "base": base,
        "rows": base[2:5],
        "flat": base.flatten()[5:9],
        "parameter": torch.nn.Parameter(base[1:2]),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 7),
        "end": base[6:],
    }
    data = saved(state, new_format=new_format)

    for name, entry in entries(data).items():
        assert entry.shape == tuple(state[name].shape)
        assert data[entry.offset : entry.offset + entry.nbytes] == raw(state[name])


@LEGACY
def test_bytes_of_a_module_with_ties(new_format: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 9, bias=False))
    model[2].weight = model[0].weight
    data = saved(model.state_dict(), new_format=new_format)

    found = entries(data)

    assert found["0.weight"]._replace(name="") == found["2.weight"]._replace(name="")
    for name, tensor in model.state_dict().items():
        assert data[found[name].offset :].startswith(raw(tensor))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(protocol: int) -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(3, dtype=torch.uint16), "bytes": b"x" * 300, "set": {1}, "frozen": frozenset({2})}
    buffer = io.BytesIO()
    torch.save(state, buffer, pickle_protocol=protocol)

    assert list(entries(buffer.getvalue())) == ["a", "b"]


def test_tables_are_flattened_and_other_values_left_out() -> None:
    state = {"model": {"w": torch.ones(2), "list": [torch.ones(1), {"x": torch.ones(1)}]}, 7: (torch.ones(1),), "step": 3, "none": None}

    assert list(entries(saved(state))) == ["model.w", "model.list.0", "model.list.1.x", "7.0"]


def test_dictionaries_of_other_classes_are_read() -> None:
    state = collections.defaultdict(list, {"a": collections.OrderedDict(w=torch.ones(1)), "c": collections.Counter("ab")})

    assert list(entries(saved(state))) == ["a.w"]


def test_tensor_subclass_with_attributes() -> None:
    tensor = torch.ones(3)
    tensor.note = "kept"  # pyright: ignore[reportAttributeAccessIssue]: torch pickles such a tensor by another call

    assert entries(saved({"w": tensor}))["w"].nbytes == 12


def test_strided_views_are_marked() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = entries(saved({"t": base.t(), "even": base[:, ::2], "wide": torch.ones(1).expand(5), "one": base[:1].t()[:, :1]}))

    strides = {name: tensor.arrangement.stride for name, tensor in tensors.items() if isinstance(tensor.arrangement, Strided)}
    assert strides == {"t": (1, 4), "even": (4, 2), "wide": (0,)}
    assert [tensor.nbytes for tensor in tensors.values()] == [48, 24, 20, 16]
    assert tensors["t"].to_json()["stride"] == (1, 4)


def test_bytes_of_a_shared_storage_count_once() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"row": base[1], "base": base, "tie": base, "turned": base.t(), "own": base.clone(), "none": base[:0]}
    halves = {"left": (pair := torch.ones(2, 4))[:, :2], "right": pair[:, 2:]}

    shared = shared_tensors(read(saved(state | halves)).tensors)
    assert shared == {"tie": "base", "turned": "base", "row": "base"}


@LEGACY
def test_state_dict_of_a_large_model_takes_few_reads(new_format: bool) -> None:
    state = {f"layers.{number}.weight": torch.full((5000,), number, dtype=torch.int16) for number in range(200)}
    source = Memory(saved(state, new_format=new_format))

    tensors = read_header(source).tensors

    assert all(source.data[tensor.offset : tensor.offset + 2] == struct.pack("<h", number) for number, tensor in enumerate(tensors))
    assert len(source.reads) < 20


def test_archive_without_alignment_is_read_by_its_local_headers() -> None:
    state = {f"w{number}": torch.full((3,), number) for number in range(40)}
    rewritten = repacked(saved(state))

    tensors = read(rewritten).tensors

    assert all(rewritten[tensor.offset :].startswith(raw(state[tensor.name])) for tensor in tensors)


# What a pickle names


class Command:
    """Pickles as a call of os.system."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@LEGACY
def test_pickle_that_runs_a_command_is_named_and_not_run(new_format: bool, tmp_path: Path) -> None:
    header = read(saved({"w": torch.ones(1), "x": Command(tmp_path / "ran")}, new_format=new_format))

    assert header.metadata["pickle_globals"] == (f"{os.system.__module__}.system",)
    assert [tensor.name for tensor in header.tensors] == ["w"]
    assert not (tmp_path / "ran").exists()


def test_plain_state_dict_names_nothing_foreign() -> None:
    state = {"w": torch.nn.Parameter(torch.ones(1)), "half": torch.ones(1).half(), "device": torch.device("cpu"), "size": torch.Size([2])}

    assert read(saved(state)).metadata == {"pickle_globals": ()}


def test_tensors_inside_foreign_objects_are_counted() -> None:
    header = read(saved({"w": torch.ones(1), "model": torch.nn.Linear(2, 2)}))

    assert header.metadata["hidden_tensors"] == 2
    assert "torch.nn.modules.linear.Linear" in str(header.metadata["pickle_globals"])


# Hand-made archives and pickles


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


class Persistent(tuple[object, ...]):
    """Pickles as the persistent id that it is."""


class StoragePickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple[object, ...] | None:
        return tuple(obj) if isinstance(obj, Persistent) else None


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    StoragePickler(buffer, 2).dump(value)
    return buffer.getvalue()


def storage(kind: type = torch.FloatStorage, key: object = "0", numel: object = 4) -> Persistent:
    return Persistent(("storage", kind, key, "cpu", numel))


def tensor(*changed: object, call: str = "_rebuild_tensor_v2", of: object = None) -> Call:
    """A tensor of four floats; `changed` stands in the place of offset, shape, strides, gradient, hooks, flags."""
    usual = (0, (4,), (1,), False, None)
    return Call(getattr(torch._utils, call), storage() if of is None else of, *changed, *usual[len(changed) :])


def archive(table: bytes, members: dict[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("m/data.pkl", table)
        for name, content in (members or {}).items():
            file.writestr(f"m/{name}", content)
    return buffer.getvalue()


def repacked(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        contents = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    return archive(contents.pop("data.pkl"), contents)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    at %= len(data)
    return data[:at] + value + data[at + len(value) :]


TABLE = pickled({"w": tensor()})
WHOLE = archive(TABLE, {"data/0": bytes(16)})


def test_hand_made_archive_is_read() -> None:
    (entry,) = read(WHOLE).tensors

    assert (entry.name, entry.dtype, entry.shape, entry.nbytes) == ("w", "F32", (4,), 16)


BAD_ARCHIVES = {
    "cut": (WHOLE[:-1], "the end of the zip archive is missing: the file is cut short; download it again"),
    "compressed": (archive(TABLE, compression=zipfile.ZIP_DEFLATED), "the zip member 'm/data.pkl' is compressed; save it again"),
    "no pickle": (WHOLE.replace(b"data.pkl", b"date.pkl"), "a zip archive without PyTorch's data.pkl; unzip it"),
    "TorchScript": (archive(TABLE, {"constants.pkl": b""}), "a TorchScript archive, a program .*; save model.state_dict"),
    "big-endian": (archive(TABLE, {"byteorder": b"big"}), "its tensors are not little-endian; load it with PyTorch"),
    "long byte order": (archive(TABLE, {"byteorder": b"little" * 9}), "the zip member 'm/byteorder' has 54 bytes, more than 16"),
    "long pickle": (archive(bytes(32_000_001)), "the zip member 'm/data.pkl' has 32,000,001 bytes, more than 32,000,000"),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_bad_archive_is_refused_in_words(name: str) -> None:
    data, message = BAD_ARCHIVES[name]

    with pytest.raises(InvalidCheckpointError, match=f"^model.bin: {message}"):
        read(data)


HUGE = 2**62
BAD_TENSORS = {
    "storage type": (tensor(of=storage(torch.QInt8Storage)), "its type torch.QInt8Storage is not one that mlload reads"),
    "storage key": (tensor(of=storage(key="9")), "its storage '9' is not in the file"),
    "odd storage key": (tensor(of=storage(key=("0",))), "its storage 'tuple' is not in the file"),
    "storage size": (tensor(of=storage(numel=5)), "its storage should have 20 bytes, but the file holds 16"),
    "negative size": (tensor(of=storage(numel=-1)), "its storage '0' is of a kind that mlload does not read"),
    "storage view": (tensor(of=Persistent((*storage(), ("1", 0, 4)))), "its storage '0' is of a kind that mlload does not read"),
    "no storage": (tensor(of=7), "its record is not (storage, offset, shape, strides)"),
    "offset": (tensor(1), "it reaches to byte 20 of its storage, which has 16"),
    "stride": (tensor(0, (3,), (2,)), "it reaches to byte 20 of its storage, which has 16"),
    "empty beyond": (tensor(5, (0,)), "it reaches to byte 20 of its storage, which has 16"),
    "negative offset": (tensor(-1), "its record is not (storage, offset, shape, strides)"),
    "shape": (tensor(0, 4), "its record is not (storage, offset, shape, strides)"),
    "boolean in shape": (tensor(0, (True,)), "its record is not (storage, offset, shape, strides)"),
    "giant integer": (tensor(0, (2**64,)), "its record is not (storage, offset, shape, strides)"),
    "strides": (tensor(0, (4,), ()), "it has 1 dimensions and 0 strides"),
    "dimensions": (tensor(0, (1,) * 65, (1,) * 65), "it has 65 dimensions and 65 strides"),
    "overflow": (tensor(0, (HUGE, HUGE), (0, 0)), f"shape ({HUGE}, {HUGE}) of F32 is more bytes than a file can have"),
    "conjugated": (tensor(0, (4,), (1,), False, None, {"conj": True}), "it is conjugated or negated: its bytes are not its values"),
    "sparse": (tensor(call="_rebuild_sparse_tensor"), "it is a sparse tensor; save it as a plain tensor"),
    "quantized": (tensor(call="_rebuild_qtensor"), "it is a tensor quantized by PyTorch; save it as a plain tensor"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensor_is_refused_by_name(name: str) -> None:
    record, message = BAD_TENSORS[name]

    with pytest.raises(InvalidCheckpointError) as caught:
        read(archive(pickled({"w": record}), {"data/0": bytes(16)}))

    assert str(caught.value).startswith(f"model.bin: tensor w: {message}")


DEEP_TUPLE = b")" + b"\x85" * 300_000


def nested(depth: int) -> dict[str, object]:
    return {"x": nested(depth - 1)} if depth else {}


BAD_TABLES = {
    "broken": (TABLE[:-9], "the pickle is broken or cut short at byte"),
    "object": (pickled(Call(os.getcwd)), f"it holds an object, {os.name}.getcwd, and no table of tensors; save model.state_dict"),
    "tensor": (pickled(tensor()), "it holds no table of tensors; save model.state_dict"),
    "itself": (b"}q\0Vself\nh\0s.", "its tables are nested more than 32 deep, or contain themselves"),
    "deep": (pickled(nested(40)), "its tables are nested more than 32 deep, or contain themselves"),
    "deep tuple": (DEEP_TUPLE + b".", "its tables are nested more than 32 deep, or contain themselves"),
    "deep tuple as size": (TABLE.replace(b"K\4tq", DEEP_TUPLE + b"tq"), "tensor w: its storage '0' is of a kind that mlload does not read"),
    "deep tuple as flags": (TABLE.replace(b"Ntq", b"N" + DEEP_TUPLE + b"tq"), "tensor w: it is conjugated or negated"),
    "one table often": (b"](" + b"N" * 9_999 + b"eq\0](" + b"h\0" * 101 + b"e.", "its tables have more than 1,000,000 entries"),
    "name twice": (pickled({"a.b": tensor(), "a": {"b": tensor()}}), "tensor a.b: two tensors have this name"),
    "long name": (pickled({"k" * 1_025: tensor()}), "tensor kkk.*: its name has more than 1,024 characters"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_table_is_refused_in_words(name: str) -> None:
    table, message = BAD_TABLES[name]

    with pytest.raises(InvalidCheckpointError, match=f"^model.bin: {message}"):
        read(archive(table, {"data/0": bytes(16)}))


def test_tensor_under_too_many_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "MAX_TENSORS", 3)

    with pytest.raises(InvalidCheckpointError, match="it lists more than 3 tensors"):
        read(archive(pickled([tensor()] * 4), {"data/0": bytes(16)}))


# The format before PyTorch 1.6, and what is no PyTorch file at all

OLD = saved({"w": torch.ones(2, 3)}, new_format=False)
BAD_OLD = {
    "cut": (OLD[:-1], "its storages end at byte .*; download it again"),
    "longer": (OLD + b"x", "its storages end at byte"),
    "cut in the pickles": (OLD[:200], "the pickle is broken or cut short at byte 200"),
    "version": (OLD.replace(b"M\xe9\x03.", b"M\xe8\x03."), "version 1000 of PyTorch's old format is not known"),
    "big-endian": (OLD.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"), "its tensors are not little-endian"),
    "keys": (OLD[: OLD.rindex(b"]q")] + b"N." + bytes(32), "its list of storages does not fit its tensors"),
    "count": (patched(OLD, -32, b"\7"), "its storage '.*' has another number of elements than its tensors say"),
    "pickle": (pickle.dumps({"w": 1}), "a Python pickle, but not one of torch.save; convert it to safetensors"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "a tar archive, as PyTorch wrote before 0.1.10; load it with an old PyTorch"),
    "empty": (b"", "the file is empty"),
    "GGUF": (b"GGUF" + bytes(60), "not a PyTorch file: it is a GGUF file"),
    "other": (b"abcdefgh" * 9, "not a PyTorch file: it is neither a zip archive nor a pickle; download it again"),
}


def pickle_end(data: bytes, count: int) -> int:
    """Where the first `count` pickles in `data` end."""
    buffer = io.BytesIO(data)
    for _ in range(count):
        for _ in pickletools.genops(buffer):
            pass
    return buffer.tell()


@pytest.mark.parametrize("name", BAD_OLD)
def test_bad_old_file_is_refused_in_words(name: str) -> None:
    data, message = BAD_OLD[name]

    with pytest.raises(InvalidCheckpointError, match=f"^model.bin: {message}"):
        read(data)


@pytest.mark.parametrize("place", range(5))
def test_names_in_every_pickle_of_an_old_file_are_seen(place: int) -> None:
    start = pickle_end(OLD, place)
    data = OLD[: start + 2] + b"cos\nsystem\n0" + OLD[start + 2 :]

    assert read(data).metadata["pickle_globals"] == ("os.system",)


def test_old_file_with_a_long_pickle_is_read_in_larger_windows() -> None:
    data = saved({"padding": "x" * 2_000_000, "w": torch.arange(4.0)}, new_format=False)

    (entry,) = read(data).tensors

    assert data[entry.offset :] == raw(torch.arange(4.0))


@LEGACY
def test_file_cut_anywhere_is_refused(new_format: bool) -> None:
    data = saved({"w": torch.ones(2)}, new_format=new_format)

    for end in range(len(data)):
        with pytest.raises(InvalidCheckpointError):
            read(data[:end])


def test_head_on_the_bytes_of_the_embedding_is_shown_as_tied(tmp_path: Path) -> None:
    embedding, layers = torch.ones(10, 8), {f"model.layers.{index}.mlp.weight": torch.ones(8, 8) for index in range(2)}
    torch.save({"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, **layers}, tmp_path / "pytorch_model.bin")

    report = mlload.inspect(tmp_path)
    assert (report.tie_word_embeddings, report.bytes) == (True, 4 * (80 + 2 * 64))
    assert report.shared_tensors == {"lm_head.weight": "model.embed_tokens.weight"}
