"""A repository on the hub, read in place: its listing, its small files, and ranges of its weights. Nothing is downloaded.

One round trip asks for the listing and, before knowing it, for the config and the index; the next ones read the headers of all
shards side by side. All later answers must come from the commit that the listing named.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import constants

from ..errors import AccessDeniedError, InvalidCheckpointError, NetworkError, NotFoundError, UsageError
from ..layout import find_layout, is_read_in_series, layout_problems, shards_of_index
from ..problems import Problem
from ..reference import HubReference, similar_name
from ..strict_json import parse_object
from ..text import printable
from . import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, ByteSource, license_text
from .http import HttpClient, Response
from .hub_cache import COMMIT, DEFAULT_REVISION, cached_commit, snapshot_folder
from .local import LocalFile, LocalFolder, check_size, read_small
from .parallel import Ahead

_MAX_LISTING_BYTES = 20_000_000  # of 100,000 files
_LEAST_READ = 4096
_LARGE_READ = 4_000_000  # from here on one file at a time: sixteen giant headers at once would take all memory
_EARLY_FILES = {"config.json": MAX_CONFIG_BYTES, "model.safetensors.index.json": MAX_INDEX_BYTES}


def open_hub(reference: HubReference, file: str | None = None) -> LocalFolder | HubRepository:
    """The repository: from the hub, or from the cache when offline, when asked for a cached commit, or when the hub can't be reached.

    `file` is the weights file that will be read where the reference's folder holds several.
    """
    if reference.host not in (None, urlsplit(constants.ENDPOINT).netloc):
        raise UsageError(f"{reference.host} is not the hub that is asked, {constants.ENDPOINT}", hint="set HF_ENDPOINT to ask another one")
    cache = Path(constants.HF_HUB_CACHE)
    commit = cached_commit(cache, reference.repo_id, reference.revision)
    if constants.is_offline_mode():
        if commit is None:
            message = f"{_shown(reference)} is not in the cache ({cache}), and HF_HUB_OFFLINE forbids asking the hub"
            raise NotFoundError(message, hint=similar_name(reference.repo_id) or "unset HF_HUB_OFFLINE, or download the model first")
        return _cached(cache, reference, commit)
    if commit is not None and commit == reference.revision and _is_whole(cache, reference, commit, file):
        return _cached(cache, reference, commit)
    try:
        return HubRepository(reference, cache, likely_commit=commit)
    except NetworkError as error:
        if commit is None:
            unknown = f"no folder, registered or cached model is called '{_shown(reference)}', and the hub can't be asked"
            hints = (error.hint, similar_name(reference.repo_id))
            raise NetworkError(f"{unknown}: {error.message}", hint="; ".join(filter(None, hints))) from None
        unreached = Problem("warning", "hub-unreachable", f"the cached commit was read, which may not be the newest: {error.message}")
        return _cached(cache, reference, commit, problems=(unreached,))


def _cached(cache: Path, reference: HubReference, commit: str, *, problems: tuple[Problem, ...] = ()) -> LocalFolder:
    folder = snapshot_folder(cache, reference.repo_id, commit) / reference.folder
    return LocalFolder(folder, kind="cache", revision=commit, only=_only(reference), problems=problems)


def _is_whole(cache: Path, reference: HubReference, commit: str, file: str | None) -> bool:
    """Whether the cache holds all of a commit's weights, and the config that most formats need: often only some files were downloaded."""
    try:
        folder = _cached(cache, reference, commit)
        layout, beside = find_layout(folder.files, location=folder.location, file=file)
        if layout.format.name != "gguf" and folder.read_file("config.json", limit=MAX_CONFIG_BYTES) is None:
            return False
        if layout.index is None:
            return not any(problem.severity == "error" for problem in layout_problems(layout, beside, {}))
        index = parse_object(folder.read_file(layout.index, limit=MAX_INDEX_BYTES) or b"", file=layout.index)
        return folder.files.keys() >= set(shards_of_index(index.get("weight_map"), index=layout.index).values())
    except (NotFoundError, InvalidCheckpointError):  # the hub may have what is missing, and tells as well what is wrong
        return False


def _only(reference: HubReference) -> str | None:
    """The file beside which no other counts; an index leads to others, and so does a part of a series."""
    file = reference.file
    return None if file is None or file.endswith(".index.json") or is_read_in_series(file) else file


def _shown(reference: HubReference) -> str:
    return reference.repo_id if reference.revision is None else f"{reference.repo_id}@{reference.revision}"


def _token() -> str | None:
    """The user's token, from HF_TOKEN or the file that `hf auth login` wrote."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        try:
            token = Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8")
        except (OSError, ValueError):  # no file, or one that holds no text
            return None
    token = (token or "").strip()
    if not token.isascii() or not token.isprintable():
        raise UsageError("the token in HF_TOKEN holds characters that no token has", hint="copy it again")
    return token or None


class HubRepository:
    """A model repository at one commit, with its files' sizes known and nothing downloaded."""

    kind = "hub"
    parallel_reads = 16
    problems: tuple[Problem, ...] = ()

    def __init__(self, reference: HubReference, cache: Path, *, likely_commit: str | None = None) -> None:
        self._reference = reference
        self._repo_id = reference.repo_id
        self.location = "/".join(filter(None, (reference.repo_id, reference.folder, reference.file)))
        self._client = HttpClient(token=_token(), token_origin=constants.ENDPOINT, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self._asked = quote(reference.revision or DEFAULT_REVISION, safe="")
        self._early = Ahead(self._get_early, workers=len(_EARLY_FILES))
        likely = snapshot_folder(cache, self._repo_id, likely_commit or "") / reference.folder
        self._early.announce(name for name in _EARLY_FILES if likely_commit is None or not (likely / name).is_file())
        self._located = Ahead(self._locate, workers=self.parallel_reads)
        self.large_reads = threading.Lock()
        listing = self._client.get(
            f"{constants.ENDPOINT}/api/models/{self._repo_id}/revision/{self._asked}?blobs=true", limit=_MAX_LISTING_BYTES + 1
        )
        self._check(listing, "its listing")
        check_size(f"{self._repo_id} (the hub's listing)", len(listing.body), limit=_MAX_LISTING_BYTES)
        self._read_listing(listing)
        self._snapshot = snapshot_folder(cache, self._repo_id, self.revision) / reference.folder

    @property
    def requests(self) -> int:
        """HTTP requests made so far, redirects and retries counted."""
        return self._client.requests

    @property
    def bytes_read(self) -> int:
        """Bytes of HTTP bodies read so far."""
        return self._client.bytes_read

    def _read_listing(self, answer: Response) -> None:
        listing = parse_object(answer.body, file=f"{self._repo_id} (the hub's listing)")
        sha, siblings, card = listing.get("sha"), listing.get("siblings"), listing.get("cardData")
        if not isinstance(sha, str) or not COMMIT.fullmatch(sha) or not isinstance(siblings, list):
            raise NetworkError(f"{constants.ENDPOINT} answered without a commit and a list of files", hint="is HF_ENDPOINT a hub?")
        self.revision: str = sha
        inside = f"{self._reference.folder}/" if self._reference.folder else ""
        listed = (_listed(line) for line in siblings if _is_listed(line))
        self._sizes = {name.removeprefix(inside): size for name, size in listed if name.startswith(inside)}
        only = _only(self._reference)
        self.files: Mapping[str, int] = {name: size for name, size in self._sizes.items() if only in (None, name)}
        self.license: str | None = license_text(card.get("license")) if isinstance(card, dict) else None

    def _url(self, name: str, revision: str | None = None) -> str:
        path = quote(f"{self._reference.folder}/{name}".lstrip("/"))
        return f"{constants.ENDPOINT}/{self._repo_id}/resolve/{revision or self.revision}/{path}"

    def _get_early(self, name: str) -> Response:
        return self._client.get(self._url(name, self._asked), limit=_EARLY_FILES[name] + 1)

    def announce(self, names: Iterable[str]) -> None:
        """Begin to find out where these files lie: they will be opened soon."""
        self._located.announce(name for name in names if self._in_cache(name) is None)

    def size(self, name: str) -> int:
        """A file's size as the hub lists it, -1 where it doesn't say."""
        return self._sizes.get(name, -1)

    def _in_cache(self, name: str) -> Path | None:
        """The file of this very commit, where it has been downloaded."""
        path = self._snapshot / name
        return path if path.is_file() and self.size(name) in (-1, path.stat().st_size) else None

    def read_file(self, name: str, *, limit: int) -> bytes | None:
        """A small file's bytes, from the cache if this commit's file is there; None where there is no such file."""
        if name not in self._sizes:
            return None
        check_size(name, self.size(name), limit=limit)
        cached = self._in_cache(name)
        if cached is not None:
            return read_small(cached, name, limit=limit)
        answer = self._early.result(name) if name in _EARLY_FILES else None
        self._early.forget(name)  # its body may be large
        # The branch may have moved between the early request and the listing.
        if answer is None or answer.status != 200 or _header(answer, "X-Repo-Commit") not in (None, self.revision):
            answer = self._client.get(self._url(name), limit=limit + 1)
        self._check(answer, name)
        self._check_commit(answer)
        check_size(name, len(answer.body), limit=limit)
        return answer.body

    def open(self, name: str, *, ahead: int = 0) -> AbstractContextManager[ByteSource]:
        """The file for ranged reads: from the cache if this commit's file is there, else from the hub."""
        cached = self._in_cache(name)
        return LocalFile(cached, name) if cached is not None else HubFile(self, name, max(ahead, _LEAST_READ))

    def close(self) -> None:
        """Close the connections that were kept."""
        self._client.close()

    def fetch(self, name: str, first: int, last: int) -> Response:
        """Bytes `first` to `last` of a file, straight from where it is stored."""
        span = (first, last)
        answer = self._client.get(self._located.result(name), limit=last - first + 1, byte_range=span)
        if answer.status in (401, 403, 404, 410):  # a storage address expires: find it again
            self._located.forget(name)
            answer = self._client.get(self._located.result(name), limit=last - first + 1, byte_range=span)
        self._check(answer, name)
        return answer

    def _locate(self, name: str) -> str:
        """The address at which the hub stores a file; its own where it does not redirect."""
        answer = self._client.head(self._url(name))
        if answer.status in (405, 501):  # a mirror that knows no HEAD
            return self._url(name)
        if answer.status >= 400:
            self._check(answer, name)
        self._check_commit(answer)
        return urljoin(answer.url, answer.headers.get("Location") or answer.url)

    def _check_commit(self, answer: Response) -> None:
        if _header(answer, "X-Repo-Commit") not in (None, self.revision):
            raise NetworkError(f"{self._repo_id} changed on the hub while it was read", hint="try again")

    def _check(self, answer: Response, what: str) -> None:
        """Raise what the hub's answer means, by its status and the code in its X-Error-Code header."""
        if answer.status in (200, 206, 416):
            return
        code = answer.headers.get("X-Error-Code", "")
        if code == "GatedRepo":
            hint = f"ask for access at {constants.ENDPOINT}/{self._repo_id}, then set HF_TOKEN"
            raise AccessDeniedError(
                f"{self._repo_id} is gated, and this {'token' if _token() else 'request without a token'} has no access", hint=hint
            )
        if answer.status == 401 and "credentials" in answer.headers.get("X-Error-Message", ""):
            raise AccessDeniedError(
                "the hub does not accept the token", hint="run `hf auth login` again, or unset HF_TOKEN if it has expired"
            )
        if code == "RevisionNotFound":
            raise NotFoundError(f"{self._repo_id} has no revision '{self._reference.revision or DEFAULT_REVISION}'")
        if code == "EntryNotFound":
            raise NotFoundError(f"{self.location} has no file '{what}'")
        if code == "RepoNotFound" or answer.status in (401, 404):
            _refuse_missing(self._repo_id)
        if answer.status == 403:
            raise AccessDeniedError(f"{self.location}: the hub denies access", hint="check the token in HF_TOKEN")
        raise NetworkError(f"{self.location}: the hub answered {answer.status} for {what}")


def _header(answer: Response, name: str) -> str | None:
    first = answer.redirect_headers
    return (first.get(name) if first is not None else None) or answer.headers.get(name)


def _refuse_missing(location: str) -> NoReturn:
    hint = similar_name(location) or ("check the spelling" if _token() else "check the spelling, or set HF_TOKEN if the model is private")
    raise NotFoundError(f"no model '{location}' on {constants.ENDPOINT}", hint=hint)


def _is_listed(line: object) -> bool:
    """Whether a line of the listing names a file inside the repository."""
    name = line.get("rfilename") if isinstance(line, dict) else None
    return isinstance(name, str) and not name.startswith("/") and ".." not in name.split("/")


def _listed(line: Mapping[str, object]) -> tuple[str, int]:
    """A file's name, and its size or -1 where the listing doesn't say."""
    size = line.get("size")
    return str(line["rfilename"]), size if type(size) is int and size >= 0 else -1


class HubFile:
    """One file on the hub: its beginning read at once, the rest by ranges."""

    def __init__(self, repository: HubRepository, name: str, ahead: int) -> None:
        self.name = name
        self._repository = repository
        self._ahead = ahead
        self._is_alone = False
        answer = repository.fetch(name, 0, ahead - 1)
        self._beginning = answer.body
        self._etag = _etag(answer)
        self.size = self._checked_size(answer, 0)
        listed = repository.size(name)
        if listed not in (-1, self.size):
            raise NetworkError(f"{printable(name)} has {self.size:,} bytes, but the hub lists {listed:,}", hint="try again")

    def _checked_size(self, answer: Response, first: int) -> int:
        """The whole file's length, from an answer that is checked to begin at `first`."""
        if answer.status == 416:
            return 0
        if answer.status == 200:  # the server ignores ranges; the read stopped after what was needed
            if first:
                raise NetworkError(f"{urlsplit(answer.url).netloc} ignores ranges", hint="download the model first")
            length = answer.headers.get("Content-Length", "")
            return int(length) if length.isdecimal() else self._untold_size(answer)
        unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
        span, _, total = rest.partition("/")
        if unit != "bytes" or not total.isdecimal() or not span.startswith(f"{first}-"):
            raise NetworkError(f"{urlsplit(answer.url).netloc} answered another range of {printable(self.name)} than it was asked for")
        return int(total)

    def _untold_size(self, answer: Response) -> int:
        """The length of a file whose server neither says it nor keeps to ranges: the hub's word, else all that came."""
        listed = self._repository.size(self.name)
        if listed == -1 and len(answer.body) == self._ahead:
            raise NetworkError(
                f"{urlsplit(answer.url).netloc} does not say how long {printable(self.name)} is", hint="download the model first"
            )
        return len(answer.body) if listed == -1 else listed

    def __enter__(self) -> HubFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_alone:
            self._repository.large_reads.release()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only at the end of the file."""
        end = min(offset + length, self.size)
        if end <= len(self._beginning):
            return self._beginning[offset:end]
        if length > _LARGE_READ and not self._is_alone:
            self._is_alone = self._repository.large_reads.acquire()
        known = self._beginning[offset:]
        first = offset + len(known)
        answer = self._repository.fetch(self.name, first, end - 1)
        if self._checked_size(answer, first) != self.size or _etag(answer) != self._etag:
            raise NetworkError(f"{printable(self.name)} changed on the hub while it was read", hint="try again")
        if len(answer.body) != end - first:
            raise NetworkError(
                f"{urlsplit(answer.url).netloc} sent {len(answer.body):,} of {end - first:,} bytes of {printable(self.name)}"
            )
        return known + answer.body


def _etag(answer: Response) -> str | None:
    """The tag of the file's content; a server that compresses or a cache between may call the same one weak at times."""
    etag = answer.headers.get("ETag")
    return None if etag is None else etag.removeprefix("W/")
