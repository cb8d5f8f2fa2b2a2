"""A streamed model computes what the loaded one does, in the memory it was given."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from mmap import PAGESIZE
from pathlib import Path

import pytest
import torch
import transformers
from zoo import Entry
from zoo import run as forward

from mlload.loader.bench.page_cache import resident_pages
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.errors import DoesNotFitError, InvalidCheckpointError, UsageError
from mlload.loader.execution.full import fill
from mlload.loader.execution.skeleton import Skeleton
from mlload.loader.execution.streaming import Streamer, stream
from mlload.loader.execution.use_order import UseOrder
from mlload.loader.execution.weight_files import WeightFiles
from mlload.loader.plan import LoadPlan, make_plan

CPU = torch.device("cpu")
IDS = torch.arange(8)[None]
# How a unit comes into memory: as pages of the file, converted to another dtype, read without mapping.
WAYS = {"mapped": (torch.float32, True), "converted": (torch.bfloat16, True), "read": (torch.float32, False)}


def begin(folder: Path, dtype: torch.dtype = torch.float32, *, mapped: bool = True) -> tuple[Skeleton, LoadPlan, WeightFiles]:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config is not None
    model_class = getattr(transformers, checkpoint.config["architectures"][0])  # pyright: ignore[reportIndexIssue]
    config = model_class.config_class.from_pretrained(folder, dtype=dtype)
    skeleton = Skeleton.build(model_class, config, dtype, device=CPU)
    return skeleton, make_plan(checkpoint.tensors, skeleton), WeightFiles(folder, mapped=mapped)


def full(folder: Path, dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    skeleton, plan, files = begin(folder, dtype)
    fill(skeleton, plan, files, device=CPU)
    skeleton.finish(set(plan.missing), CPU)
    return skeleton.model


def streamed(folder: Path, units: float | None = 2, *, way: str = "mapped") -> Streamer:
    """With a budget of so many of the largest unit."""
    dtype, mapped = WAYS[way]
    skeleton, plan, files = begin(folder, dtype, mapped=mapped)
    largest = max(unit.target_bytes for unit in plan.units)
    return stream(skeleton, plan, files, device=CPU, resident=None if units is None else int(units * largest))


def logits(model: transformers.PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def save_llama(folder: Path, *, tied: bool = False, layers: int = 6, hidden: int = 64, inner: int = 128, dtype: str = "float32") -> Path:
    """A random Llama whose largest units are its layers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        tie_word_embeddings=tied,
    )
    transformers.LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_pages_that_are_given_back_for_good_leave_the_page_cache(tmp_path: Path) -> None:
    _, plan, files = begin(save_llama(tmp_path, layers=1, hidden=512, inner=2048))
    entry = max((entry for step in plan.steps for entry, _ in step.sources), key=lambda entry: entry.nbytes)
    assert files.read(entry).isfinite().all()
    os.sync()
    pages = {}
    for for_good in (False, True):
        files.release(entry, for_good=for_good)
        first, last = -(-entry.offset // PAGESIZE), (entry.offset + entry.nbytes) // PAGESIZE
        pages[for_good] = resident_pages(tmp_path / entry.file)[first:last].count(1)
        assert pages[False] == last - first
    assert pages[True] < pages[False] / 2  # all but what the kernel is still busy with


# ---- the same numbers ----


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_thread")
def test_every_model_type_streams_exactly(zoo: Path) -> None:
    wrong: list[str] = []
    for folder in sorted(path.parent for path in zoo.glob("*/truth.json")):
        truth = json.loads((folder / "truth.json").read_text())
        entry = Entry(truth["model_type"], truth["task"], truth["class_name"])
        skeleton, plan, files = begin(folder)
        two_largest = sum(sorted(unit.target_bytes for unit in plan.units)[-2:])
        streamer = stream(skeleton, plan, files, device=CPU, resident=two_largest)
        equal = torch.equal(forward(streamer.model, entry), forward(full(folder), entry))
        if not equal or streamer.counters.peak_resident_bytes > two_largest:
            wrong.append(folder.name)
    assert wrong == []


@pytest.mark.parametrize("units", [1, 2, 3.5, None])
@pytest.mark.parametrize("way", WAYS)
def test_any_budget_gives_the_same_logits(llama: Path, way: str, units: float | None) -> None:
    streamer, expected = streamed(llama, units, way=way), logits(full(llama, WAYS[way][0]))
    for _ in range(3):
        assert torch.equal(logits(streamer.model), expected)


@pytest.mark.parametrize("way", WAYS)
def test_generate_is_that_of_the_loaded_model(llama: Path, way: str) -> None:
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = full(llama, WAYS[way][0]).generate(IDS, **settings)  # pyright: ignore[reportCallIssue]
    assert torch.equal(streamed(llama, way=way).model.generate(IDS, **settings), expected)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("way", WAYS)
def test_no_weight_asks_for_a_gradient(llama: Path, way: str) -> None:
    model = streamed(llama, way=way).model
    logits(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(IDS).logits.requires_grad


@pytest.mark.parametrize("way", WAYS)
def test_the_last_token_alone_is_computed_as_by_the_loaded_model(llama: Path, way: str) -> None:
    found = []
    for model in (full(llama, WAYS[way][0]), streamed(llama, way=way).model):
        with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            last = model(IDS, logits_to_keep=1).logits
        found.append((last, sum(event.name == "aten::bmm" for event in seen.events() or ())))  # for each a matrix is copied whole
    (expected, batched), (mine, mine_batched) = found
    assert torch.equal(mine, expected)
    assert mine_batched == batched


@pytest.mark.parametrize("way", WAYS)
def test_two_threads_share_a_streamed_model(llama: Path, way: str) -> None:
    model, expected = streamed(llama, 1.5, way=way).model, logits(full(llama, WAYS[way][0]))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: logits(model), range(8)))
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("way", WAYS)
def test_state_dict_and_saved_files_are_those_of_the_loaded_model(tied: Path, tmp_path: Path, way: str) -> None:
    model, expected = streamed(tied, 1, way=way).model, full(tied, WAYS[way][0])
    mine, theirs = model.state_dict(), expected.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    model.save_pretrained(tmp_path / "mine")
    expected.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "mine/model.safetensors").read_bytes() == (tmp_path / "theirs/model.safetensors").read_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_tied_weights_are_one_tensor_of_one_unit(tied: Path, way: str) -> None:
    streamer = streamed(tied, way=way)
    model = streamer.model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert "lm_head" not in [unit.name for unit in streamer.units]
    assert len(list(model.parameters())) == len(list(full(tied).parameters()))
    assert torch.equal(logits(model), logits(full(tied, WAYS[way][0])))


# ---- the memory ----


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("units", [1, 2, 4])
def test_a_pass_reads_each_unit_once_within_the_budget(llama: Path, way: str, units: int) -> None:
    streamer = streamed(llama, units, way=way)
    logits(streamer.model)
    before = copy.copy(streamer.counters)
    logits(streamer.model)
    after = streamer.counters
    table = 0 if streamer.units[0].made.steps else streamer.units[0].nbytes  # mapped, its rows are looked up singly
    stored = sum(path.stat().st_size for path in llama.glob("*.safetensors"))
    ahead = 2 * max(unit.nbytes for unit in streamer.units)  # read already for the pass that would come next
    assert after.bytes_read - before.bytes_read <= stored - table + ahead
    assert after.visits - before.visits == len(streamer.units)
    assert 0 < after.peak_resident_bytes <= units * max(unit.nbytes for unit in streamer.units)


def test_units_are_read_ahead_as_soon_as_two_fit(llama: Path) -> None:
    one, two = streamed(llama, 1), streamed(llama, 2)
    logits(one.model), logits(two.model)
    assert two.counters.hits == two.counters.prefetch_hits == two.counters.visits - 1
    assert one.counters.prefetch_hits < one.counters.visits / 2  # the small units at the ends fit beside a layer's


def test_what_is_needed_soonest_stays(llama: Path) -> None:
    streamer = streamed(llama, 5.5)  # of six layers
    logits(streamer.model)
    loads = streamer.counters.loads
    logits(streamer.model)
    assert streamer.counters.loads - loads <= 5  # of nine units


def test_the_order_of_use_is_learned() -> None:
    order = UseOrder(4)
    order.move_to(0)
    assert order.ahead() == [1, 2, 3]
    for unit in (2, 1, 3, 0):
        order.move_to(unit)
    assert order.ahead() == [1, 2, 3]  # 0 after 3 is new, and what follows it
    for unit in (2, 1, 3, 0):
        order.move_to(unit)
    assert order.ahead() == [2, 1, 3]


def test_a_budget_below_the_largest_unit_is_refused_with_the_least_that_works(llama: Path) -> None:
    with pytest.raises(DoesNotFitError) as caught:
        streamed(llama, 0.5)
    assert str(caught.value) == (
        "model.layers.0 alone takes 160 KiB, more than the 80.2 KiB that may be resident; allow 164,352 bytes (160 KiB) or more"
    )
    skeleton, plan, files = begin(llama)
    logits(stream(skeleton, plan, files, device=CPU, resident=164_352).model)


MEASURED = """
import sys, pathlib, torch, test_streaming
skeleton, plan, files = test_streaming.begin(pathlib.Path(sys.argv[1]), getattr(torch, sys.argv[2]))
torch.set_num_threads(1)
model = test_streaming.stream(skeleton, plan, files, device=test_streaming.CPU, resident=int(sys.argv[3])).model
ids = torch.zeros(1, 1, dtype=torch.long)
def forward():
    with torch.no_grad():
        model(ids, use_cache=False)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    forward()
"""


def resident_kib(pid: int) -> dict[str, int]:
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if words[0] in ("RssAnon:", "RssFile:")}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 MB of bfloat16: nine layers of 20 MB."""
    return save_llama(tmp_path_factory.mktemp("large"), layers=9, hidden=1024, inner=2048, dtype="bfloat16")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "budget", "kind"), [("bfloat16", 45_000_000, "RssFile:"), ("float32", 90_000_000, "RssAnon:")])
def test_memory_seen_from_outside_stays_under_the_budget(large: Path, dtype: str, budget: int, kind: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, str(large), dtype, str(budget)]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before, peak = resident_kib(child.pid), {"RssAnon:": 0, "RssFile:": 0}
        child.stdin.write("\n")
        child.stdin.flush()
        while child.poll() is None:
            now = resident_kib(child.pid)
            peak = {name: max(peak[name], now.get(name, 0)) for name in peak}
    grown = {name: (peak[name] - before[name]) * 1024 for name in peak}
    assert child.returncode == 0
    assert budget / 3 < grown[kind] < budget + 25_000_000  # and what computing takes, and one tensor while it is converted
    assert all(size < budget + 25_000_000 for size in grown.values())


# ---- what a streamed model refuses ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.to(torch.float16), "a streamed model stays float32 on cpu; stream it anew with what you want"),
        (copy.deepcopy, "a streamed model can't be copied or pickled; stream the checkpoint a second time, or load it whole"),
    ],
)
def test_a_streamed_model_can_not_be_converted_or_copied(llama: Path, change: Callable[[object], object], message: str) -> None:
    model = streamed(llama).model
    with pytest.raises(UsageError) as caught:
        change(model)
    assert str(caught.value) == message
    assert torch.equal(logits(model.to("cpu")), logits(full(llama)))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("way", WAYS)
def test_a_part_that_is_converted_stays_so(llama: Path, way: str) -> None:
    model = streamed(llama, 1, way=way).model
    head = model.get_output_embeddings().to(torch.float64)
    with torch.no_grad():
        model.model(IDS)  # pyright: ignore[reportCallIssue]
    assert head.weight.dtype == torch.float64
    assert torch.equal(head.weight, full(llama, WAYS[way][0]).get_output_embeddings().weight.double())


def test_a_file_that_changes_while_it_is_streamed_is_named(llama: Path, tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "changing")
    model = streamed(folder).model
    expected = logits(model)
    os.utime(folder / "model.safetensors")
    with pytest.raises(InvalidCheckpointError, match=r"model\.safetensors: the file changed"):
        logits(model)
    assert expected is not None
