"""Quantized weights kept on disk: the same model as without, whatever happens to the files, the disk or the process."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import transformers
from conftest import Outcome

import mlload
from mlload import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.execution.cache_key import SourceFiles
from mlload.loader.execution.checked_file import crc32
from mlload.loader.execution.last_key import kept_files
from mlload.loader.loading import LoadedModel, load
from mlload.loader.settings import CacheMode
from mlload.loader.writing import replacing, sweep

# Warnings of the libraries about each other's newer and older ways.
pytestmark = pytest.mark.filterwarnings("default")

LAYERS = 8
METHODS = {
    "nf4": QuantizationConfig(QuantizationMethod.BNB_NF4),
    "nf4 double": QuantizationConfig(QuantizationMethod.BNB_NF4, double_quant=True),
    "nf4 stored as bfloat16": QuantizationConfig(QuantizationMethod.BNB_NF4, quant_storage=torch.bfloat16),
    "fp4": QuantizationConfig(QuantizationMethod.BNB_FP4),
    "int8": QuantizationConfig(QuantizationMethod.BNB_INT8),
}
SPAWN = multiprocessing.get_context("forkserver")  # torch is imported once; what is forked has never used it
SPAWN.set_forkserver_preload(["bitsandbytes", "mlload.loader.loading", "mlload.loader.execution.streaming"])
CHILD = """
import os, resource, torch
os.environ["MLLOAD_CACHE"] = {root!r}
torch.set_num_threads(1)
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
loaded = load(ModelLoadingConfig({model!r}, device="cpu", quantization_config=QuantizationConfig(QuantizationMethod.BNB_NF4)))
assert bool(loaded.cache_problem) == bool({limit}), loaded.cache_problem
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 20 MB, too old to be known by its content."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=1088, num_hidden_layers=LAYERS, num_attention_heads=4, vocab_size=512
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="8MB")
    return aged(folder)


def aged(folder: Path) -> Path:
    time.sleep(2.1)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLOAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantized"


def loaded(folder: Path, *, method: str = "nf4", mode: CacheMode = CacheMode.ON, mmap: bool = True) -> LoadedModel:
    return load(ModelLoadingConfig(folder, device="cpu", quantization_config=METHODS[method], quantized_cache=mode, mmap=mmap))


def bits(model: transformers.PreTrainedModel) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {
        name: (tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in model.state_dict().items()
    }


def logits(model: transformers.PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(20, 28)[None]).logits


def files(root: Path) -> dict[str, bytes]:
    """Everything below a cache, hidden files too, but what differs from run to run: the times at which files were found right."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "verified.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def child(root: Path, model: Path, *, limit: int = 0) -> ForkServerProcess:
    process = SPAWN.Process(target=exec, args=(CHILD.format(root=str(root.parent), model=str(model), limit=limit),))
    process.start()
    return process


@pytest.fixture
def clean(llama: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a load that nothing disturbs leaves."""
    undisturbed = tmp_path / "clean" / "quantized"
    process = child(undisturbed, llama)
    process.join()
    assert process.exitcode == 0
    return files(undisturbed)


# ---- the same model ----


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_from_the_cache_comes_what_is_quantized_without_one(llama: Path, root: Path, tmp_path: Path, method: str, mmap: bool) -> None:
    wanted = loaded(llama, method=method, mode=CacheMode.OFF, mmap=mmap)
    first, second = loaded(llama, method=method, mmap=mmap), loaded(llama, method=method, mmap=mmap)
    assert [each.cache for each in (wanted, first, second)] == ["off", "miss", "hit"]
    assert bits(wanted.model) == bits(first.model) == bits(second.model)
    for each in (wanted, second):
        each.model.save_pretrained(tmp_path / each.cache)
    assert files(tmp_path / "off") == files(tmp_path / "hit")
    assert torch.equal(logits(wanted.model), logits(second.model))
    assert [path.name for path in sorted(root.glob("*/model*"))] == [f"model.layers.{index}.safetensors" for index in range(LAYERS)]


def test_the_second_load_reads_nothing_that_it_would_quantize(llama: Path, root: Path) -> None:
    plan = loaded(llama).plan
    others = sum(step.source_bytes for step in plan.steps if not step.quantized)
    kept = sum(path.stat().st_size for path in root.rglob("*.safetensors"))
    before = characters_read()
    assert loaded(llama, mmap=False).cache == "hit"
    assert characters_read() - before < others + 2 * kept + 500_000 < plan.source_bytes


def test_a_file_that_was_right_is_not_read_again(llama: Path, root: Path) -> None:
    loaded(llama)
    loaded(llama)  # which checks what was too young when it was written
    kept = sum(path.stat().st_size for path in root.rglob("*.safetensors"))
    before = characters_read()
    assert loaded(llama).cache == "hit"
    assert characters_read() - before < kept / 4


@pytest.mark.parametrize("content", [b"", b"[]", b'{"model.layers.0":1}', b"\xff", None])
def test_what_is_known_of_files_may_be_wrong(llama: Path, root: Path, content: bytes | None) -> None:
    wanted = bits(loaded(llama).model)
    (known,) = root.glob("*/verified.json")
    known.unlink()
    known.mkdir() if content is None else known.write_bytes(content)
    again = loaded(llama)
    assert (again.cache, bits(again.model)) == ("hit", wanted)


def test_the_checksum_is_the_one_that_everybody_has() -> None:
    assert crc32(b"123456789") == 0xCBF43926


def characters_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_model_that_is_changed_leaves_the_cache_as_it_is(llama: Path, root: Path) -> None:
    loaded(llama)
    before, model = files(root), loaded(llama).model
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert files(root) == before


# ---- what may happen to files ----


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_in_secret(path: Path) -> None:
    times = path.stat()
    flip(path, -1)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "length": lambda path: flip(path, 0),
    "shape": lambda path: flip(path, path.read_bytes().index(b'"shape":[') + 9),
    "name": lambda path: flip(path, path.read_bytes().index(b"q_proj")),
    "padding": lambda path: flip(path, path.read_bytes().index(b"}}") + 2),
    "first byte": lambda path: flip(path, 8 + int.from_bytes(path.read_bytes()[:8], "little")),
    "last byte": lambda path: flip(path, -1),
    "last byte, in secret": flip_in_secret,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: os.truncate(path, 0),
    "another unit's": lambda path: shutil.copy(path.with_name("model.layers.1.safetensors"), path),
    "missing": lambda path: path.unlink(),
    "a fifo": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_unit_that_is_not_right_is_made_again_alone(llama: Path, root: Path, damage: str) -> None:
    wanted = bits(loaded(llama).model)
    before, (path,) = files(root), root.glob("*/model.layers.3.safetensors")
    inodes = {other: other.stat().st_ino for other in path.parent.glob("model*") if other != path}
    DAMAGES[damage](path)
    again = loaded(llama)
    assert (again.cache, bits(again.model)) == ("partial", wanted)
    assert files(root) == before
    assert {other: other.stat().st_ino for other in inodes} == inodes


def test_a_unit_of_another_key_is_not_taken(llama: Path, root: Path) -> None:
    loaded(llama, method="fp4")
    (foreign,) = root.iterdir()
    wanted = bits(loaded(llama).model)
    (own,) = set(root.iterdir()) - {foreign}
    shutil.copy(foreign / "model.layers.0.safetensors", own)
    again = loaded(llama)
    assert (again.cache, bits(again.model)) == ("partial", wanted)


def test_a_shard_that_changes_gives_another_key(llama: Path, root: Path, tmp_path: Path) -> None:
    folder = aged(Path(shutil.copytree(llama, tmp_path / "copy")))
    loaded(folder)
    shard = folder / "model-00001-of-00003.safetensors"
    times = shard.stat()
    flip(shard, -1)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # size, inode and this time are as they were
    changed = loaded(folder)
    assert (changed.cache, len(list(root.iterdir()))) == ("miss", 2)
    assert bits(changed.model) == bits(loaded(folder, mode=CacheMode.OFF).model)


def test_a_shard_that_changes_while_it_is_loaded_is_not_kept(llama: Path, root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "copy"))
    planned = mlload.loader.loading.plan_load(ModelLoadingConfig(folder, device="cpu", quantization_config=METHODS["nf4"]))
    with pytest.raises(mlload.InvalidCheckpointError, match="changed"):
        planned.execute(lambda unit: os.utime(folder / "model-00001-of-00003.safetensors"))
    assert files(root) == {}


def test_files_are_known_by_what_can_not_lie(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "young").write_bytes(b"a")
    (tmp_path / "blobs" / ("0123abcd" * 8)).write_bytes(b"a")
    (tmp_path / "of the hub").symlink_to("blobs/" + "0123abcd" * 8)
    identities = SourceFiles.of(tmp_path, ["blobs/young", "of the hub"]).identities()
    assert [identity[1:3] for identity in identities] == [
        ("content", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        ("blob", "0123abcd" * 8),
    ]
    assert SourceFiles.of(llama, ["model.safetensors.index.json"]).identities()[0][1] == "status"


# ---- what may happen to processes ----


@pytest.mark.parametrize("units", [0, 1, 3, 6])
def test_a_killed_load_is_gone_on_with(llama: Path, root: Path, clean: dict[str, bytes], units: int) -> None:
    process = child(root, llama)
    while process.is_alive() and (not root.is_dir() or len(list(root.glob("*/model*"))) < units):
        pass
    process.kill()
    process.join()
    there = {path: path.stat().st_ino for path in root.glob("*/model*")}
    assert len(there) >= units
    again = child(root, llama)
    again.join()
    assert (again.exitcode, files(root)) == (0, clean)
    assert {path: path.stat().st_ino for path in there} == there  # nothing is made twice


def test_two_processes_at_once(llama: Path, root: Path, clean: dict[str, bytes]) -> None:
    processes = [child(root, llama) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert files(root) == clean


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(llama: Path, root: Path) -> None:
    wanted = bits(loaded(llama).model)
    (path,) = root.glob("*/model.layers.3.safetensors")
    path.unlink()
    (path.parent / ".model.layers.0.safetensors-0123.tmp").write_bytes(b"half")
    with replacing(path) as descriptor:
        os.write(descriptor, b"of another process")
        assert bits(loaded(llama).model) == wanted
        assert not path.exists()  # the other one is about to put it there
        (living,) = path.parent.glob(".*")
        sweep(path.parent)
        assert living.exists()
    assert path.read_bytes() == b"of another process"


# ---- what may happen to disks ----


def test_a_cache_that_can_not_be_written_is_done_without(run: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    outcome = run("load", "tiny", "--quantize", "nf4", env={"MLLOAD_CACHE": str(tmp_path / "file" / "cache")})
    assert (outcome.code, "miss: all was quantized" in outcome.out) == (0, True)
    assert "warning: quantized weights are not kept for the next load: " in outcome.err
    assert "Not a directory" in outcome.err


def test_a_file_that_may_not_grow_is_left_out(llama: Path, root: Path, clean: dict[str, bytes]) -> None:
    process = child(root, llama, limit=100_000)
    process.join()
    assert (process.exitcode, files(root)) == (0, {})
    again = child(root, llama)
    again.join()
    assert files(root) == clean


@pytest.fixture
def full_disk(root: Path) -> Iterator[Path]:
    """A disk with room for some units."""
    root.parent.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", root.parent], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a disk")
    yield root
    subprocess.run(["umount", "-l", root.parent], check=True)


def test_a_full_disk_keeps_the_units_that_it_has_room_for(llama: Path, full_disk: Path, clean: dict[str, bytes]) -> None:
    first = loaded(llama)
    assert first.cache_problem is not None
    assert first.cache_problem.endswith("No space left on device")
    kept = files(full_disk)
    assert 0 < len(kept) < LAYERS
    assert kept == {name: clean[name] for name in kept}
    second = loaded(llama)
    assert (second.cache, bits(second.model)) == ("partial", bits(first.model))


# ---- what a user asks for ----


def test_only_what_is_cached_may_be_asked_for(llama: Path, root: Path) -> None:
    with pytest.raises(mlload.NotFoundError, match=rf"0 of {LAYERS} units of .* in nf4 is cached; load it once with --cache on"):
        loaded(llama, mode=CacheMode.ONLY)
    loaded(llama)
    assert loaded(llama, mode=CacheMode.ONLY).cache == "hit"
    with pytest.raises(mlload.UsageError, match="only quantized weights are cached"):
        load(ModelLoadingConfig(llama, quantized_cache=CacheMode.ONLY))


def test_the_command_says_what_came_from_the_cache(run: Callable[..., Outcome]) -> None:
    command = ("load", "tiny", "--quantize", "int8")
    assert run(*command, "--cache", "off", "--json").json["cache"] == "off"
    assert run(*command, "--json").json["cache"] == "miss"
    assert "cache      hit: nothing was quantized" in run(*command).out
    assert run(*command, "--cache", "never").err == "error: unknown cache mode 'never'; known: on, off, only\n"


def test_the_next_load_knows_which_files_it_will_take_before_torch_is_there(llama: Path, root: Path) -> None:
    quantization = METHODS["nf4"]
    weights = sorted(llama.glob("*.safetensors"))
    settings = ModelLoadingConfig(llama, device="cpu", quantization_config=quantization)
    assert kept_files(weights, quantization) == []
    load(settings)
    assert kept_files(weights, quantization) == sorted(root.glob("*/*.safetensors"))
    assert len(kept_files(weights, quantization)) == LAYERS
    assert kept_files(weights, METHODS["fp4"]) == []
    (note,) = (root.parent / "quantized_keys").iterdir()
    for text in ("../../somewhere", "", "é" * 64):
        note.write_text(text)
        assert kept_files(weights, quantization) == []
    assert load(settings).cache == "hit"
    assert len(kept_files(weights, quantization)) == LAYERS
