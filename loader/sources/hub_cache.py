"""The hub's cache on this machine, in the layout that huggingface_hub writes: what is there is used without a network."""

from __future__ import annotations

import re
from pathlib import Path

COMMIT = re.compile(r"[0-9a-f]{40}")
DEFAULT_REVISION = "main"


def cached_commit(cache: Path, repo_id: str, revision: str | None) -> str | None:
    """The commit that `revision` names in the cache, or None where it holds no such snapshot."""
    folder = _repo_folder(cache, repo_id)
    commit = revision or DEFAULT_REVISION
    if not COMMIT.fullmatch(commit):
        try:
            commit = (folder / "refs" / commit).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    return commit if COMMIT.fullmatch(commit) and snapshot_folder(cache, repo_id, commit).is_dir() else None


def snapshot_folder(cache: Path, repo_id: str, commit: str) -> Path:
    """Where the files of `commit` lie once they are downloaded."""
    return _repo_folder(cache, repo_id) / "snapshots" / commit


def _repo_folder(cache: Path, repo_id: str) -> Path:
    return cache / f"models--{repo_id.replace('/', '--')}"


def snapshot_in(folder: Path) -> Path | None:
    """The snapshot meant by a `models--org--name` folder of the cache: main's, else the only one."""
    snapshots = folder / "snapshots"
    if not folder.name.startswith("models--") or not snapshots.is_dir():
        return None
    cached = cached_commit(folder.parent, folder.name.removeprefix("models--").replace("--", "/"), None)
    if cached is not None:
        return snapshots / cached
    commits = [entry for entry in snapshots.iterdir() if entry.is_dir()]
    return commits[0] if len(commits) == 1 else None
