"""What the user typed, understood: a path, a registry name, a hub id or the address of a model page."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ..configs import FOLDER
from .errors import NotFoundError, UsageError
from .registry import registered_models
from .text import did_you_mean

# huggingface_hub's rule for repository names: word characters, dots and dashes, at most 96, no `--` or `..`.
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))(?:\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]{0,254}", re.ASCII)
_PAGE = re.compile(
    r"https?://(?P<host>[^/]+)/(?P<id>[^/?#]+/[^/?#]+)"
    r"(?:/(?P<view>tree|blob|resolve)/(?P<revision>refs/(?:pr|convert)/[^/?#]+|[^/?#]+)(?P<path>/[^?#]*)?)?/?(?:[?#].*)?"
)
_PATH_STARTS = (".", "/", "~", "\\")


@dataclass(frozen=True, slots=True)
class LocalReference:
    """A folder or file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository on the hub, at a branch, tag or commit (`main` where none was named)."""

    repo_id: str
    revision: str | None = None
    host: str | None = None  # of the page whose address was given; must be the hub that is asked
    folder: str = ""  # the sub-folder that is meant, with `/` between its parts
    file: str | None = None  # the one file in it that is meant


def parse_reference(reference: str | os.PathLike[str]) -> LocalReference | HubReference:
    """What `reference` names. Raises NotFoundError for a path that leads nowhere, UsageError for what can be none of these."""
    text = os.fspath(reference)
    if not text or "\0" in text:
        raise UsageError("the model's name is empty" if not text else "the model's name holds a NUL character")
    path = Path(os.path.expanduser(text))  # unlike Path.expanduser this lets an unknown user's home be a name
    if os.path.lexists(path):
        return LocalReference(path)
    if isinstance(reference, os.PathLike) or _looks_like_a_path(text):
        is_part = isinstance(reference, str) and not text.startswith(_PATH_STARTS) and text.rstrip("/").count("/") > 1
        hint = "a folder or file of a hub's repository is named by the address of its page" if is_part else None
        raise NotFoundError(f"no such file or folder: {text}", hint=hint)
    if "://" in text:
        return _parse_page(text)
    name, _, revision = text.partition("@")
    return _registered(name, revision or None) or _hub_reference(name, revision if "@" in text else None)


def _looks_like_a_path(text: str) -> bool:
    name = text.partition("@")[0]
    return text.startswith(_PATH_STARTS) or ("://" not in text and (name.count("/") > 1 or name.endswith("/")))


def _registered(name: str, revision: str | None) -> LocalReference | HubReference | None:
    spec = registered_models().get(name)
    if spec is None:
        return None
    path = Path(spec.hf_id)
    if path.is_absolute():
        if revision:
            raise UsageError(f"'{name}' {'ships with mlload' if FOLDER in path.parents else 'is a folder'} and has no revisions")
        if not os.path.lexists(path):
            raise NotFoundError(f"'{name}' is registered at {path}, where nothing is")
        return LocalReference(path)
    own, _, fixed = spec.hf_id.partition("@")
    return _hub_reference(own, revision or fixed or None)


def _hub_reference(name: str, revision: str | None) -> HubReference:
    if not _HUB_ID.fullmatch(name):
        raise UsageError(
            f"'{name}' is neither a file, a folder, a registered model nor a hub id",
            hint="a hub id looks like org/name or org/name@revision",
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(f"'{revision}' can't be the name of a revision", hint="a branch, a tag or a commit follows the @")
    return HubReference(name, revision)


def _parse_page(text: str) -> HubReference:
    """The model, or the folder or file of it, behind the address of a page on the hub (or on the mirror that HF_ENDPOINT names)."""
    page = _PAGE.fullmatch(text)
    if page is None:
        raise UsageError(f"'{text}' is not the address of a model's page", hint="give org/name instead")
    found = _hub_reference(page["id"], unquote(page["revision"]) if page["revision"] else None)
    path = unquote(page["path"] or "").strip("/")
    if path and not all(part.strip(".") and part.isprintable() for part in path.split("/")):
        raise UsageError(f"'{path}' can't be a path inside a repository", hint="copy the address from the file's page")
    folder, _, file = ("", "", "") if not path else (path, "", "") if page["view"] == "tree" else path.rpartition("/")
    return HubReference(found.repo_id, found.revision, host=page["host"], folder=folder, file=file or None)


def is_registered(name: str) -> bool:
    """Whether the registry has a model of that name."""
    return name in registered_models()


def similar_name(name: str) -> str | None:
    """`did you mean ...?` among the registered names."""
    return did_you_mean(name, registered_models())
