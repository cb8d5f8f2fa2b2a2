"""A checkpoint's files on this machine: where they lie already, or downloaded from the hub into its cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NetworkError, NotFoundError
from ..reference import HubReference, parse_reference

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

# Small files that a model, its tokenizer or its processor is built from.
_BESIDE_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py", "LICENSE*")


def local_folder(checkpoint: Checkpoint, *, shards: Iterable[str] | None = None) -> Path:
    """The folder that holds the checkpoint's files; downloads what is missing of a hub's repository, at the commit that was inspected.

    `shards` are the weights files that are needed, None for all; what lies beside them always comes. Raises NotFoundError or
    NetworkError where the download fails.
    """
    asked = parse_reference(checkpoint.reference)
    if checkpoint.source == "hub" and isinstance(asked, HubReference):
        return _download(asked, checkpoint, checkpoint.shards if shards is None else shards) / asked.folder
    location = Path(checkpoint.location)
    return location if location.is_dir() else location.parent


def _download(asked: HubReference, checkpoint: Checkpoint, shards: Iterable[str]) -> Path:
    from httpx2 import HTTPError  # huggingface_hub's client, whose errors it lets through
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    inside = f"{asked.folder}/" if asked.folder else ""
    wanted = [f"{inside}{name}" for name in (*shards, *_BESIDE_WEIGHTS)]
    try:
        # Asked for by the name that the user gave, so that the cache remembers which commit the name stood for.
        folder = Path(snapshot_download(asked.repo_id, revision=asked.revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError) as error:
        raise NetworkError(f"{asked.repo_id}: the download failed: {error}".splitlines()[0], hint="try again: it goes on") from error
    except OSError as error:
        raise NotFoundError(f"{asked.repo_id}: can't be kept: {error.strerror}", hint="is the disk of HF_HOME full?") from error
    if folder.name != checkpoint.revision:
        raise NetworkError(f"{asked.repo_id}: a new commit came while it was loaded", hint="try again")
    return folder
