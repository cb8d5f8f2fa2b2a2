"""The stand-in for the Hub, judged by huggingface_hub's own client; its faults, seen by a bare HTTP client."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import hub_faults as faults
import pytest
from hub_faults import Fault
from hub_server import HubServer, hub

HERE = Path(__file__).parent
REPO = "org/tiny"
WEIGHTS = "model.safetensors"
BASE = f"/{REPO}/resolve/main"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a card, a config, weights and a folder."""
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- tiny\n---\n# Tiny\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "pad": "x" * 2000}))
    (folder / "sub" / "nötes 模.txt").write_text("notes")
    write_safetensors(folder / WEIGHTS, {"a": [2, 3], "b": [4]})
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[HubServer]:
    with hub() as server:
        server.add(REPO, folder)
        yield server


def write_safetensors(path: Path, shapes: Mapping[str, list[int]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * struct.calcsize(f"{shape[0] * (shape[1] if len(shape) > 1 else 1)}x")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(range(256)) * (end // 256) + bytes(range(end % 256)))


def judge(server: HubServer, home: Path, code: str, *, token: str | None = None) -> Any:
    """Run code in a fresh process with huggingface_hub pointing to the server; return what it puts into `out`."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    env |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"HF_TOKEN": token} if token else {}
    imports = "import json\nfrom huggingface_hub import *\nfrom huggingface_hub.errors import *\n"
    script = f"{imports}REPO = {REPO!r}\n{code}\nprint(json.dumps(out))"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(url: str, *, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Send one request over a connection of its own; follow nothing."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    try:
        connection.request(method, url.partition(parts.netloc)[2], headers={k.replace("_", "-"): v for k, v in headers.items()})
        reply = connection.getresponse()
        return reply, reply.read()
    finally:
        connection.close()


def link(server: HubServer, file: str = WEIGHTS) -> str:
    """Return the signed address of a file in LFS."""
    return ask(f"{server.endpoint}{BASE}/{quote(file)}")[0].headers["Location"]


def test_download_gives_equal_bytes(server: HubServer, folder: Path, tmp_path: Path) -> None:
    code = "out = [hf_hub_download(REPO, name) for name in ('config.json', 'model.safetensors', 'sub/nötes 模.txt')]"
    for path in map(Path, judge(server, tmp_path, code)):
        name = path.as_posix().partition("/snapshots/")[2].partition("/")[2]
        assert path.read_bytes() == (folder / name).read_bytes()


def test_snapshot_download_takes_every_file(server: HubServer, folder: Path, tmp_path: Path) -> None:
    copy = Path(judge(server, tmp_path, "out = snapshot_download(REPO)"))
    for path in folder.rglob("*.*"):
        assert (copy / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_listing_comes_in_pages(server: HubServer, tmp_path: Path) -> None:
    server.page_size = 2
    listed = judge(server, tmp_path, "out = [entry.path for entry in HfApi().list_repo_tree(REPO, recursive=True)]")
    assert sorted(listed) == ["README.md", "config.json", WEIGHTS, "sub", "sub/nötes 模.txt"]
    assert [r.path for r in server.log].count(f"/api/models/{REPO}/tree/main") == 3


def test_model_info(server: HubServer, folder: Path, tmp_path: Path) -> None:
    sha = server.add(REPO, folder)
    code = """
info = HfApi().model_info(REPO, files_metadata=True)
files = {s.rfilename: [s.size, s.blob_id, s.lfs.sha256 if s.lfs else None] for s in info.siblings}
out = [info.sha, info.gated, info.private, info.card_data.license, info.tags, info.safetensors.total, files]"""
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    *facts, files = judge(server, tmp_path, code)
    assert facts == [sha, False, False, "apache-2.0", ["safetensors", "transformers", "tiny", "license:apache-2.0"], 10]
    git = subprocess.run(["git", "hash-object", "sub/nötes 模.txt"], cwd=folder, capture_output=True, text=True, check=True)
    assert files["sub/nötes 模.txt"] == [5, git.stdout.strip(), None]
    assert files[WEIGHTS][::2] == [(folder / WEIGHTS).stat().st_size, digest]


def test_safetensors_metadata_of_one_file(server: HubServer, tmp_path: Path) -> None:
    code = "meta = get_safetensors_metadata(REPO)\nout = [meta.sharded, meta.parameter_count, sorted(meta.weight_map)]"
    assert judge(server, tmp_path, code) == [False, {"F32": 10}, ["a", "b"]]
    assert not server.leaks


def test_safetensors_metadata_of_shards(server: HubServer, folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    write_safetensors(folder / "one.safetensors", {"a": [2, 3]})
    write_safetensors(folder / "two.safetensors", {"b": [4]})
    index = {"metadata": {"total_size": 40}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    server.add(REPO, folder)
    code = """
tables = [get_safetensors_metadata(REPO), HfApi().get_sharded_safetensors_metadata(REPO)]
out = [[m.metadata, m.weight_map, m.parameter_count] for m in tables]"""
    assert judge(server, tmp_path, code) == 2 * [[{"total_size": 40}, index["weight_map"], {"F32": 10}]]


def test_revisions_and_old_names(server: HubServer, folder: Path, tmp_path: Path) -> None:
    old = server.add(REPO, folder)
    (folder / "config.json").write_text("{}")
    new = server.add(REPO, folder, revision="v2")
    server.add(REPO, folder, revision="refs/pr/1")
    server.rename("gpt2", REPO)
    code = f"""
out = [HfApi().model_info(REPO, revision=r).sha for r in ('main', 'v2', 'refs/pr/1', {old!r})]
out += [HfApi().model_info('gpt2').id, open(hf_hub_download('gpt2', 'config.json', revision='v2')).read()]"""
    assert old != new
    assert judge(server, tmp_path, code) == [old, new, new, old, REPO, "{}"]


STRANGER = "token='hf_stranger'"
ERRORS = {
    "hf_hub_download('org/none', 'config.json')": ("RepositoryNotFoundError", 401),
    "HfApi().model_info('org/none')": ("RepositoryNotFoundError", 401),
    "hf_hub_download('org/private', 'config.json')": ("RepositoryNotFoundError", 401),
    "hf_hub_download('org/gated', 'config.json')": ("GatedRepoError", 401),
    f"hf_hub_download('org/private', 'config.json', {STRANGER})": ("RepositoryNotFoundError", 404),
    f"hf_hub_download('org/gated', 'config.json', {STRANGER})": ("GatedRepoError", 403),
    "hf_hub_download(REPO, 'config.json', revision='v9')": ("RevisionNotFoundError", 404),
    "HfApi().model_info(REPO, revision='v9')": ("RevisionNotFoundError", 404),
    "hf_hub_download(REPO, 'none.json')": ("RemoteEntryNotFoundError", 404),
    "list(HfApi().list_repo_tree(REPO, 'none'))": ("RemoteEntryNotFoundError", 404),
}


def test_errors_are_those_of_the_hub(server: HubServer, folder: Path, tmp_path: Path) -> None:
    server.add("org/gated", folder, gated=True, token="hf_member")
    server.add("org/private", folder, private=True, token="hf_member")
    server.tokens.add("hf_stranger")
    code = f"""
out = {{}}
for call in {list(ERRORS)!r}:
    try:
        eval(call)
    except HfHubHTTPError as error:
        out[call] = [type(error).__name__, error.response.status_code]
"""
    assert judge(server, tmp_path, code) == {call: list(expected) for call, expected in ERRORS.items()}


def test_a_member_reads_gated_and_private_files(server: HubServer, folder: Path, tmp_path: Path) -> None:
    server.add("org/gated", folder, gated="manual", token="hf_member")
    server.add("org/private", folder, private=True, token="hf_member")
    code = """
out = [hf_hub_download(repo, 'model.safetensors') for repo in ('org/gated', 'org/private')]
out.append(HfApi().model_info('org/gated', token=False).gated)"""
    *paths, gated = judge(server, tmp_path, code, token="hf_member")
    assert gated == "manual", "everyone may know"
    for path in paths:
        assert Path(path).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert [r.server for r in server.log if r.file == WEIGHTS and r.had_token] == ["hub", "hub"]
    assert not server.leaks


def test_invalid_token_is_refused_even_for_public_repositories(server: HubServer) -> None:
    reply, _ = ask(f"{server.endpoint}/api/models/{REPO}", Authorization="Bearer hf_wrong")
    assert (reply.status, reply.headers["X-Error-Message"]) == (401, "Invalid credentials in Authorization header")


def test_head_of_weights_links_to_the_storage_host(server: HubServer, folder: Path) -> None:
    reply, body = ask(f"{server.endpoint}{BASE}/{WEIGHTS}", method="HEAD")
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert (reply.status, body, reply.headers["X-Linked-Etag"]) == (302, b"", f'"{digest}"')
    assert int(reply.headers["X-Linked-Size"]) == (folder / WEIGHTS).stat().st_size
    assert reply.headers["Location"].startswith(server.cdn_endpoint)


def test_small_files_go_through_the_resolve_cache(server: HubServer) -> None:
    reply, _ = ask(f"{server.endpoint}{BASE}/config.json")
    assert reply.status == 307
    there, _ = ask(server.endpoint + reply.headers["Location"])
    assert (there.status, there.headers["ETag"]) == (200, reply.headers["ETag"])
    server.resolve_cache = False
    assert ask(f"{server.endpoint}{BASE}/config.json")[0].status == 200


@pytest.mark.parametrize(
    ("asked", "status", "told", "span"),
    [
        ("bytes=0-9", 206, "bytes 0-9/{size}", slice(0, 10)),
        ("bytes=5-", 206, "bytes 5-{last}/{size}", slice(5, None)),
        ("bytes=-3", 206, "bytes {third}-{last}/{size}", slice(-3, None)),
        ("bytes=0-99999", 206, "bytes 0-{last}/{size}", slice(None)),
        ("bytes=99999-", 416, "bytes */{size}", slice(0, 0)),
        ("bytes=0-1,4-5", 200, None, slice(None)),
    ],
)
def test_ranges(server: HubServer, folder: Path, asked: str, status: int, told: str | None, span: slice) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    reply, body = ask(link(server), Range=asked)
    size = len(whole)
    assert (reply.status, body) == (status, whole[span])
    assert reply.headers["Content-Range"] == (told and told.format(size=size, last=size - 1, third=size - 3))
    assert (server.log[-1].bytes, server.log[-1].range) == (len(whole[span]), asked)


def test_conditions(server: HubServer, folder: Path) -> None:
    url, etag = link(server), f'"{hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}"'
    assert ask(url, If_None_Match=etag)[0].status == 304
    assert ask(url, If_Match='"other"')[0].status == 412
    assert ask(url, If_Range='"other"', Range="bytes=0-1")[0].status == 200
    assert ask(url, If_Range=etag, If_Match=etag, Range="bytes=0-1")[0].status == 206


def test_gzip_and_ranges_do_not_go_together(server: HubServer) -> None:
    server.resolve_cache = False
    url = f"{server.endpoint}{BASE}/config.json"
    assert ask(url, Range="bytes=0-1")[1] == b'{"'
    reply, body = ask(url, Range="bytes=0-1", Accept_Encoding="gzip")
    assert (reply.status, reply.headers["Content-Encoding"], body[:2]) == (200, "gzip", b"\x1f\x8b")


def test_expired_link_is_refused(server: HubServer) -> None:
    old = link(server)
    server.expire_links()
    assert [ask(url)[0].status for url in (old, link(server))] == [403, 200]


def test_the_log_tells_of_a_token_at_the_storage_host(server: HubServer) -> None:
    ask(link(server), Authorization="Bearer secret")
    assert [(r.server, r.had_token) for r in server.leaks] == [("cdn", True)]
    assert (server.requests, server.connections) == (2, 2)
    server.reset_log()
    assert (server.requests, server.connections, server.bytes_sent) == (0, 0, 0)


def test_a_terabyte_is_served_without_reading_it(server: HubServer, folder: Path) -> None:
    with (folder / "hüge 模.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    server.add(REPO, folder)
    reply, body = ask(link(server, "hüge 模.safetensors"), Range=f"bytes={(1 << 40) - 4}-")
    assert (reply.status, body) == (206, bytes(4))


def test_a_connection_is_kept(server: HubServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.endpoint).netloc, timeout=5)
    for _ in range(3):
        connection.request("GET", f"/api/models/{REPO}")
        connection.getresponse().read()
    connection.close()
    assert (server.requests, server.connections) == (3, 1)


def test_it_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with hub() as server, socket.create_connection(("127.0.0.1", urlsplit(server.endpoint).port or 0)) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 404"
    assert threading.active_count() == before


def test_as_a_process(folder: Path, tmp_path: Path) -> None:
    port, log = tmp_path / "port", tmp_path / "log"
    command = [sys.executable, str(HERE / "hub_server.py"), "--repo", f"{REPO}={folder}", "--port-file", str(port), "--log-file", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        endpoint = process.stdout.readline().strip()
        reply, _ = ask(f"{endpoint}/api/models/{REPO}")
        process.terminate()
    assert port.read_text() == endpoint
    assert (process.returncode, reply.status) == (0, 200)
    assert [json.loads(line)["path"] for line in log.read_text().splitlines()] == [f"/api/models/{REPO}"]


STRUCK: Mapping[str, tuple[Fault, Callable[[http.client.HTTPResponse, bytes, bytes], bool]]] = {
    "429": (faults.status(429, retry_after=7), lambda reply, body, whole: (reply.status, reply.headers["Retry-After"]) == (429, "7")),
    "date": (faults.status(503, retry_after=faults.http_date(9)), lambda reply, body, whole: reply.headers["Retry-After"].endswith(" GMT")),
    "drip": (faults.drip(7, 0.001), lambda reply, body, whole: body == whole[:50]),
    "flip": (faults.flip(3), lambda reply, body, whole: len(body) == 50 and body != whole[:50] and body[4:] == whole[4:50]),
    "chunked": (faults.chunked(), lambda reply, body, whole: body == whole[:50] and "Content-Length" not in reply.headers),
    "wrong range": (faults.wrong_range(2), lambda reply, body, whole: reply.headers["Content-Range"].startswith("bytes 2-51/")),
    "ignored range": (faults.ignore_range(), lambda reply, body, whole: (reply.status, body) == (200, whole)),
    "etag": (faults.changed_etag(), lambda reply, body, whole: reply.headers["ETag"] == '"changed"'),
    "html": (faults.html(), lambda reply, body, whole: reply.status == 200 and body.startswith(b"<!doctype html>")),
    "file": (faults.redirect("file:///etc/passwd"), lambda reply, body, whole: reply.headers["Location"] == "file:///etc/passwd"),
}


@pytest.mark.parametrize("name", list(STRUCK))
def test_fault(server: HubServer, folder: Path, name: str) -> None:
    fault, seen = STRUCK[name]
    whole, url = (folder / WEIGHTS).read_bytes(), link(server)
    server.faults.append(fault)
    reply, body = ask(url, Range="bytes=0-49")
    assert seen(reply, body, whole), (reply.status, reply.headers.items(), body)
    assert server.log[-1].fault == fault.name
    assert ask(url, Range="bytes=0-49")[1] == whole[:50], "the fault is spent"


BROKEN: Mapping[str, tuple[Fault, type[Exception]]] = {
    "short": (faults.short(20), http.client.IncompleteRead),
    "reset": (faults.reset(20), ConnectionResetError),
    "reset at once": (faults.reset(None), ConnectionResetError),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_connection(server: HubServer, name: str) -> None:
    url = link(server)
    fault, error = BROKEN[name]
    server.faults.append(fault)
    with pytest.raises(error):
        ask(url)
    assert ask(url)[0].status == 200


def test_huge_length(server: HubServer, folder: Path) -> None:
    parts = urlsplit(link(server))
    server.faults.append(faults.huge_length())
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    connection.request("GET", f"{parts.path}?{parts.query}")
    reply = connection.getresponse()
    assert (reply.length, reply.read(1 << 16)) == (1 << 62, (folder / WEIGHTS).read_bytes())
    connection.close()


@pytest.mark.parametrize("after", [None, 0, 20])
def test_stall(server: HubServer, after: int | None) -> None:
    parts = urlsplit(link(server))
    server.faults.append(faults.stall(60, after))
    connection = http.client.HTTPConnection(parts.netloc, timeout=0.1)
    connection.request("GET", f"{parts.path}?{parts.query}")
    with pytest.raises(TimeoutError):
        connection.getresponse().read()
    connection.close()


def test_moved_commit(server: HubServer) -> None:
    server.faults.append(faults.moved_commit(path="config.json"))
    first, moved, last = (ask(f"{server.endpoint}{BASE}/{name}")[0] for name in (WEIGHTS, "config.json", "config.json"))
    assert moved.headers["X-Repo-Commit"] == "f" * 40
    assert first.headers["X-Repo-Commit"] == last.headers["X-Repo-Commit"] != "f" * 40


def test_endless_redirects(server: HubServer) -> None:
    server.faults.append(faults.redirect_loop())
    url = f"{BASE}/config.json"
    for _ in range(30):
        reply, _ = ask(server.endpoint + url)
        assert reply.status == 302
        url = reply.headers["Location"]


def test_faults_come_in_order_and_skip(server: HubServer) -> None:
    server.faults += [faults.status(500, times=2), faults.status(502, skip=1), faults.status(503, path="/api/other/*")]
    statuses = [ask(f"{server.endpoint}/api/models/{REPO}")[0].status for _ in range(5)]
    assert statuses == [500, 500, 200, 502, 200]
    assert len(server.faults) == 1


def test_a_seed_repeats_the_same_luck() -> None:
    def luck(seed: int) -> list[int]:
        with hub() as server:
            server.faults.append(faults.status(500, times=None, probability=0.5, seed=seed))
            return [ask(f"{server.endpoint}/")[0].status for _ in range(20)]

    assert luck(1) == luck(1) != luck(2)
