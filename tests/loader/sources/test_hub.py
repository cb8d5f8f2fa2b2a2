"""Reading from a hub: what is asked of it, what comes out, and what each of its failures says."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hub_faults as faults
import pytest
from conftest import LLAMA_CONFIG, Outcome, write_safetensors
from hub_faults import Fault
from hub_server import HubServer

import mlload
from mlload.configs import FOLDER

REPO = "org/llama"
Ask = Callable[..., Outcome]


def download(server: HubServer, home: Path, files: str = "*") -> None:
    """Fill the cache as huggingface_hub does."""
    code = f"from huggingface_hub import snapshot_download; snapshot_download({REPO!r}, allow_patterns={files!r})"
    env = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)


def test_report_equals_that_of_the_folder(ask: Ask, llama: Path) -> None:
    local = json.loads(json.dumps(mlload.inspect(llama).to_json()))
    remote = ask().json
    differing = {key for key in local if local[key] != remote[key]}
    assert differing <= {"reference", "source", "location", "revision", "requests", "bytes_read", "files", "license"}
    assert remote["license"] == "mit"


def test_several_licences_of_a_model_card(server: HubServer, ask: Ask, llama: Path) -> None:
    (llama / "README.md").write_text("---\nlicense:\n- mit\n- apache-2.0\n---\n")
    server.add("org/licensed", llama)
    assert ask("org/licensed").json["license"] == "mit, apache-2.0"


def test_nothing_is_downloaded_or_written(ask: Ask, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert ask().code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_two_requests_a_shard_and_three_before_with_their_redirects(ask: Ask, server: HubServer) -> None:
    answer = ask().json
    assert (
        answer["requests"] == server.requests == 3 + 2 + 2 * 2
    )  # listing, config and index with a redirect each; find and read each shard
    assert answer["bytes_read"] == sum(record.bytes for record in server.log if record.method == "GET")


def test_shards_are_read_side_by_side(ask: Ask, server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    shards = [f"model-{number:05}-of-00012.safetensors" for number in range(1, 13)]
    for number, shard in enumerate(shards):
        write_safetensors(
            folder / shard, {f"model.layers.{number}.mlp.up_proj.weight": ("F32", (4, 4)), f"model.layers.{number}.mlp.b": ("F32", (4,))}
        )
    weight_map = {f"model.layers.{number}.mlp.{name}": shard for number, shard in enumerate(shards) for name in ("up_proj.weight", "b")}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    server.add("org/wide", folder)
    server.delay = 0.5
    assert ask("org/wide").code == 0
    arrivals = sorted(record.at for record in server.log if record.server == "cdn")
    assert len(arrivals) == len(shards)
    assert arrivals[-1] - arrivals[0] < server.delay


def test_giant_headers_side_by_side_do_not_add_up(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "giant"
    folder.mkdir()
    shards = [folder / f"model-{number:05}-of-00016.safetensors" for number in range(1, 17)]
    shards[0].write_bytes(struct.pack("<Q", 20_000_000) + b'{"w":' + b"9" * 19_999_994 + b"}")
    for shard in shards[1:]:
        os.link(shards[0], shard)
    server.add("org/giant", folder)
    code = "import mlload\ntry: mlload.inspect('org/giant')\nexcept mlload.InvalidCheckpointError:"
    code += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    env = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    peak = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True).stdout
    assert int(peak) * 1024 < 300_000_000


def test_token_goes_to_the_hub_and_never_to_the_storage(ask: Ask, server: HubServer, llama: Path) -> None:
    server.add("org/closed", llama, private=True, token="hf_mine")
    assert ask("org/closed", HF_TOKEN="hf_mine").code == 0
    assert all(record.had_token == (record.server == "hub") for record in server.log)
    assert not server.leaks


def test_token_file_is_read(ask: Ask, server: HubServer, llama: Path, tmp_path: Path) -> None:
    server.add("org/closed", llama, private=True, token="hf_mine")
    (tmp_path / "token").write_text("hf_mine\n")
    assert ask("org/closed", HF_TOKEN_PATH=str(tmp_path / "token")).code == 0


def test_revision_is_read_and_pinned(ask: Ask, server: HubServer, llama: Path) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"max_position_embeddings": 7}))
    commit = server.add(REPO, llama, revision="v2")
    answer = ask(f"{REPO}@v2").json
    assert (answer["context_length"], answer["revision"]) == (7, commit)


def test_renamed_repository_is_followed(ask: Ask, server: HubServer) -> None:
    server.rename("old/name", REPO)
    assert ask("old/name").code == 0


def test_the_address_of_a_model_page_serves_as_its_id(ask: Ask, server: HubServer) -> None:
    assert ask(f"{server.endpoint}/{REPO}/tree/main").code == 0


def test_expired_storage_addresses_are_found_again(ask: Ask, server: HubServer) -> None:
    server.faults += [faults.status(403, server="cdn", times=1)]
    assert ask().code == 0


REFUSALS: dict[str, tuple[str, dict[str, str], str]] = {
    "missing": ("org/nothing", {}, "error: no model 'org/nothing' on"),
    "private": ("org/closed", {}, "set HF_TOKEN if the model is private"),
    "gated": ("org/gated", {}, "org/gated is gated, and this request without a token has no access; ask for access at"),
    "gated, a stranger's token": ("org/gated", {"HF_TOKEN": "hf_stranger"}, "org/gated is gated, and this token has no access"),
    "unknown token": (REPO, {"HF_TOKEN": "hf_unknown"}, "the hub does not accept the token"),
    "revision": (f"{REPO}@nowhere", {}, f"error: {REPO} has no revision 'nowhere'"),
    "offline": (REPO, {"HF_HUB_OFFLINE": "1"}, "is not in the cache"),
    "no server": (
        REPO,
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
        "called 'org/llama', and the hub can't be asked: 127.0.0.1:9 failed 5 times",
    ),
    "another hub's page": ("https://example.org/org/llama", {}, "example.org is not the hub that is asked"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_can_not_be_had_says_why(ask: Ask, server: HubServer, llama: Path, case: str) -> None:
    server.add("org/closed", llama, private=True, token="hf_mine")
    server.add("org/gated", llama, gated="manual", token="hf_mine")
    server.tokens.add("hf_stranger")
    reference, env, message = REFUSALS[case]
    outcome = ask(reference, **env)
    assert outcome.code == (2 if "another" in case else 3)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


LISTED = "*/revision/main"


@pytest.mark.parametrize("page", ["tree/main/sub", "blob/main/sub/model.safetensors", "resolve/main/sub/model.safetensors?download=true"])
@pytest.mark.parametrize("cached", [False, True])
def test_the_address_of_a_folder_or_file_leads_to_it(
    ask: Ask, server: HubServer, llama: Path, tmp_path: Path, page: str, cached: bool
) -> None:
    (llama / "sub").mkdir()
    write_safetensors(llama / "sub" / "model.safetensors", {"model.embed_tokens.weight": ("F32", (10, 8))})
    (llama / "sub" / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"max_position_embeddings": 7}))
    server.add(REPO, llama)
    if cached:
        download(server, tmp_path / "hf")
    answer = ask(f"{server.endpoint}/{REPO}/{page}", HF_HUB_OFFLINE=str(int(cached))).json
    assert (answer["source"], answer["tensors"], answer["context_length"]) == ("cache" if cached else "hub", 1, 7)


def test_a_part_of_a_repository_is_loaded_from_its_address(server: HubServer, run: Callable[..., Outcome], tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "tiny", tmp_path / "both" / "sub")
    server.add("org/both", tmp_path / "both")
    env = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    assert run("load", f"{server.endpoint}/org/both/tree/main/sub", "--json", env=env).json["parameters"] == 624_640


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("told", [True, False])
def test_large_small_files_are_refused(ask: Ask, server: HubServer, llama: Path, name: str, told: bool) -> None:
    (llama / name).write_bytes(b" " * 60_000_000)
    server.add(REPO, llama)
    if not told:
        server.faults += [faults.forget_sizes(path=LISTED, times=None)]
    outcome = ask()
    assert outcome.code == 4
    assert f"error: {name}: has " in outcome.err
    assert "bytes, more than the" in outcome.err


@pytest.mark.parametrize("told", [True, False])
def test_length_is_the_listings_where_the_storage_tells_none(ask: Ask, server: HubServer, tmp_path: Path, told: bool) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": ("F32", (1000, 100))})
    server.add("org/single", folder)
    server.faults += [faults.ignore_range(untold=True, server="cdn", times=None)]
    server.faults += [] if told else [faults.forget_sizes(path=LISTED, times=None)]
    outcome = ask("org/single")
    assert outcome.code == (0 if told else 3)
    assert told or "does not say how long model.safetensors is; download the model first" in outcome.err


def test_tag_that_is_weak_at_times_is_the_same(ask: Ask, server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {f"model.layers.{number}.weight": ("F32", (1,)) for number in range(1000)})
    server.add("org/single", folder)  # its header takes two reads
    server.faults += [faults.weak_etag(server="cdn", times=1)]
    outcome = ask("org/single")
    assert outcome.code == 0, outcome.err
    assert [record.fault for record in server.log if record.server == "cdn"] == ["weak etag", ""]


PASSING: dict[str, list[Fault]] = {
    "busy": [faults.status(503, times=2)],
    "broken": [faults.status(500, server="cdn", times=1), faults.status(502, path="*config.json", times=1)],
    "asked to wait": [faults.status(429, retry_after=1, times=1)],
    "asked to wait until": [faults.status(429, retry_after=faults.http_date(1), times=1)],
    "reset": [faults.reset(None, times=1), faults.reset(20, server="cdn", times=1)],
    "short": [faults.short(10, times=2)],
    "behind a CDN": [faults.status(520, times=1), faults.status(529, server="cdn", times=1)],
    "ranges ignored": [faults.ignore_range(server="cdn", times=None)],
    "chunked": [faults.chunked(times=None)],
    "dice": [faults.status(503, times=None, probability=0.2, seed=1), faults.reset(5, times=None, probability=0.1, seed=2)],
}


@pytest.mark.parametrize("case", PASSING)
def test_passing_faults_are_survived(ask: Ask, server: HubServer, case: str) -> None:
    server.faults += PASSING[case]
    outcome = ask()
    assert outcome.code == 0, outcome.err
    assert outcome.json["problems"] == []
    assert any(record.fault for record in server.log)


def test_retry_after_is_honoured(ask: Ask, server: HubServer) -> None:
    server.faults += [faults.status(429, retry_after=1, path="*/revision/main", times=1)]
    assert ask().code == 0
    first, second = (record.at for record in server.log if record.path.split("?")[0].endswith("/revision/main"))
    assert second - first >= 1.0


LASTING: dict[str, tuple[Fault, str]] = {
    "busy": (faults.status(503, times=None), "failed 5 times, the last time with: status 503"),
    "asked to wait long": (faults.status(429, retry_after=3600, times=None), "asks to wait 3600 s before the next request"),
    "another range": (faults.wrong_range(times=None), "answered another range"),
    "moved": (faults.moved_commit(path="*.safetensors", times=None), "changed on the hub while it was read"),
    "page": (faults.html(path="*/revision/main", times=None), "(the hub's listing): not valid JSON"),
    "circle": (faults.redirect_loop(path="*config.json", times=None), "redirects in a circle"),
    "file": (faults.redirect("file:///etc/passwd", path="*config.json", times=None), "which is no web address"),
    "endless": (faults.huge_length(server="cdn", times=None), "broke off"),
}


@pytest.mark.parametrize("case", LASTING)
def test_lasting_faults_end_in_one_line(ask: Ask, server: HubServer, case: str) -> None:
    fault, message = LASTING[case]
    server.faults += [fault]
    outcome = ask()
    assert outcome.code in (3, 4)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_cached_model_is_used_offline(ask: Ask, server: HubServer, tmp_path: Path) -> None:
    download(server, tmp_path / "hf")
    server.reset_log()
    answer = ask(HF_HUB_OFFLINE="1").json
    assert (answer["source"], answer["problems"], server.requests) == ("cache", [], 0)


def test_cached_commit_is_not_asked_for_again(ask: Ask, server: HubServer, llama: Path, tmp_path: Path) -> None:
    download(server, tmp_path / "hf")
    commit = server.add(REPO, llama)
    server.reset_log()
    assert ask(f"{REPO}@{commit}").json["source"] == "cache"
    assert server.requests == 0


def test_cached_model_is_used_and_said_so_when_the_hub_is_away(ask: Ask, server: HubServer, tmp_path: Path) -> None:
    download(server, tmp_path / "hf")
    answer = ask(HF_ENDPOINT="http://127.0.0.1:9").json
    assert answer["source"] == "cache"
    assert [problem["code"] for problem in answer["problems"]] == ["hub-unreachable"]  # type: ignore[index, union-attr]


def test_cached_shards_are_not_read_from_the_hub(ask: Ask, server: HubServer, tmp_path: Path) -> None:
    download(server, tmp_path / "hf")
    server.reset_log()
    assert ask().json["source"] == "hub"
    assert [record.file for record in server.log] == [""]  # nothing but the listing


@pytest.mark.parametrize("files", ["*.json", "*0001-of*", "model*"])
def test_commit_of_which_only_a_part_is_cached_is_asked_for(ask: Ask, server: HubServer, llama: Path, tmp_path: Path, files: str) -> None:
    download(server, tmp_path / "hf", files)
    answer = ask(f"{REPO}@{server.add(REPO, llama)}").json
    assert (answer["source"], answer["tensors"], answer["class_name"]) == ("hub", 21, "LlamaForCausalLM")
    assert answer["problems"] == []


def test_cache_folder_serves_as_reference(server: HubServer, run: Callable[..., Outcome], tmp_path: Path) -> None:
    download(server, tmp_path / "hf")
    answer = run("inspect", tmp_path / "hf" / "hub" / "models--org--llama", "--json").json
    assert (answer["source"], answer["problems"]) == ("cache", [])
