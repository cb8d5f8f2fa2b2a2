"""A folder seen as a repository of the Hub: blobs, a commit, and the listings that the API gives of them."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hub_reply import MIB

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pth", ".pt", ".h5", ".msgpack", ".onnx")
LARGE = 10 * MIB  # the Hub stores larger files in LFS whatever their name
INDEX = "model.safetensors.index.json"
SPARSE = 64 * MIB  # larger files that are mostly a hole are not hashed
_HEADER_CAP = 16 * MIB
_DATE = "2025-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """One file of a commit."""

    name: str  # the path in the repository
    path: Path  # the path on disk
    size: int
    git_oid: str  # of the file, or of its LFS pointer
    sha256: str | None  # only in LFS
    pointer_size: int = 0

    @property
    def etag(self) -> str:
        return f'"{self.sha256 or self.git_oid}"'

    def sibling(self, *, blobs: bool) -> dict[str, Any]:
        """Return the entry of model_info."""
        if not blobs:
            return {"rfilename": self.name}
        lfs = {"sha256": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        entry = {"rfilename": self.name, "blobId": self.git_oid, "size": self.size}
        return entry | {"lfs": lfs} if self.sha256 else entry

    def leaf(self) -> dict[str, Any]:
        """Return the entry of the tree listing."""
        entry = {"type": "file", "oid": self.git_oid, "size": self.size, "path": self.name}
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        return entry | {"lfs": lfs} if self.sha256 else entry


@dataclass(frozen=True)
class Commit:
    """The files of a repository at one moment."""

    sha: str
    blobs: Mapping[str, Blob]
    card: Mapping[str, Any]
    config: Mapping[str, Any]
    safetensors: Mapping[str, Any] | None

    def tree(self, folder: str, *, recursive: bool) -> list[dict[str, Any]] | None:
        """Return the listing of a folder, None where there is no such folder."""
        prefix = f"{folder}/" if folder else ""
        inside = [blob for name, blob in self.blobs.items() if name.startswith(prefix)]
        if folder and not inside:
            return None
        folders = {f"{prefix}{parent}" for blob in inside for parent in _parents(blob.name.removeprefix(prefix))}
        listed = [{"type": "directory", "oid": git_oid("tree", name.encode()), "size": 0, "path": name} for name in sorted(folders)]
        listed += [blob.leaf() for blob in inside]
        return [entry for entry in listed if recursive or "/" not in entry["path"].removeprefix(prefix)]

    def headers(self, index: str) -> dict[str, Any]:
        """Return the Hub's digest of a sharded checkpoint: the index's metadata and every shard's header."""
        listed = json.loads(self.blobs[index].path.read_bytes())
        shards = sorted(set(listed["weight_map"].values()))
        headers = {shard: read_header(self.blobs[shard].path) for shard in shards}
        return {"index": {"metadata": listed.get("metadata", {})}, "headers": headers}


@dataclass
class Repo:
    """A repository: who may read it, and its commits."""

    id: str
    gated: bool | str = False
    private: bool = False
    token: str | None = None
    revisions: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def put(self, revision: str, commit: Commit) -> None:
        """Let a branch or tag point to a commit; what it pointed to stays reachable by its hash."""
        self.revisions[revision] = self.commits[commit.sha] = commit

    def at(self, revision: str) -> Commit | None:
        """Return the commit that a branch, a tag or a hash names."""
        return self.revisions.get(revision) or self.commits.get(revision)

    def info(self, commit: Commit, *, blobs: bool) -> dict[str, Any]:
        """Return what /api/models/{id} says."""
        facts: dict[str, Any] = {
            "_id": commit.sha[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.rpartition("/")[0],
            "sha": commit.sha,
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "lastModified": _DATE,
            "createdAt": _DATE,
            "downloads": 0,
            "likes": 0,
            "tags": _tags(commit),
            "config": commit.config,
            "usedStorage": sum(blob.size for blob in commit.blobs.values()),
            "siblings": [blob.sibling(blobs=blobs) for blob in commit.blobs.values()],
        }
        optional = {"cardData": commit.card, "safetensors": commit.safetensors}
        return facts | {key: value for key, value in optional.items() if value}


def snapshot(folder: Path, *, hash_limit: int) -> Commit:
    """Return the commit that holds the folder's files as they are now."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts)
    blobs = {blob.name: blob for blob in (_blob(folder, path, hash_limit) for path in paths)}
    listing = "".join(f"{blob.git_oid} {name}\n" for name, blob in blobs.items())
    config = _json(folder / "config.json")
    return Commit(
        sha=git_oid("commit", listing.encode()),
        blobs=blobs,
        card=read_card(folder / "README.md"),
        config={key: config[key] for key in ("architectures", "model_type") if key in config},
        safetensors=_parameters([path for path in paths if path.suffix == ".safetensors" and path.parent == folder]),
    )


def git_oid(kind: str, data: bytes) -> str:
    """Return the name that git gives an object."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header; ValueError where there is none."""
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8 or (length := struct.unpack("<Q", prefix)[0]) > _HEADER_CAP:
            raise ValueError(f"{path}: no header")
        return json.loads(file.read(length))


def read_card(path: Path) -> dict[str, Any]:
    """Return a model card's front matter: plain values and lists of plain values, no more of YAML."""
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return {}
    card: dict[str, Any] = {}
    key = ""
    for line in lines[1 : lines.index("---", 1)]:
        if line.lstrip().startswith("- ") and key:
            card[key] = [*(card[key] or []), line.lstrip()[2:].strip()]
        elif ":" in line and not line.startswith(" "):
            key, _, value = (part.strip() for part in line.partition(":"))
            card[key] = value.strip("\"'") or None
    return card


def _blob(folder: Path, path: Path, hash_limit: int) -> Blob:
    name, stat = path.relative_to(folder).as_posix(), path.stat()
    if not name.endswith(WEIGHTS) and stat.st_size <= LARGE:
        return Blob(name, path, stat.st_size, git_oid("blob", path.read_bytes()), None)
    sparse = stat.st_size > SPARSE and stat.st_blocks * 512 < stat.st_size // 2
    digest = _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ino, made_up=sparse or stat.st_size > hash_limit)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {stat.st_size}\n".encode()
    return Blob(name, path, stat.st_size, git_oid("blob", pointer), digest, len(pointer))


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, mtime_ns: int, inode: int, *, made_up: bool) -> str:
    """Return the file's digest, or a made-up one of its size, its first and its last MiB."""
    with path.open("rb") as file:
        if not made_up:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode() + file.read(MIB))
        file.seek(max(size - MIB, 0))
        digest.update(file.read(MIB))
    return digest.hexdigest()


def _parameters(paths: list[Path]) -> dict[str, Any] | None:
    counts: Counter[str] = Counter()
    try:
        for dtype, shape in (tensor for path in paths for tensor in _tensors(path)):
            counts[dtype] += math.prod(shape)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # broken checkpoints are served too; the Hub says nothing of their parameters
    return {"parameters": dict(counts), "total": sum(counts.values())} if counts else None


def _tensors(path: Path) -> Iterator[tuple[str, list[int]]]:
    for name, tensor in read_header(path).items():
        if name != "__metadata__":
            yield tensor["dtype"], tensor["shape"]


def _tags(commit: Commit) -> list[str]:
    listed = commit.card.get("tags") or []
    found = {"safetensors": any(name.endswith(".safetensors") for name in commit.blobs), "transformers": bool(commit.config)}
    licence = [f"license:{commit.card['license']}"] if commit.card.get("license") else []
    return [tag for tag, there in found.items() if there] + (listed if isinstance(listed, list) else [listed]) + licence


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
