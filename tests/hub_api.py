"""What huggingface.co and its storage host answer: addresses, access, errors, redirects; no sockets."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import quote, unquote, urlencode

from hub_reply import Body, Request, Response, content, text
from hub_repo import Blob, Commit, Repo, snapshot

_ID = r"(?P<id>[^/]+(?:/[^/]+)?)"
_REVISION = r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)"
_FILE = r"(?P<file>.+)"
_ROUTES = {
    "info": re.compile(rf"/api/models/{_ID}(?:/revision/{_REVISION})?$"),
    "tree": re.compile(rf"/api/models/{_ID}/tree/{_REVISION}(?:/{_FILE})?$"),
    "digest": re.compile(rf"/api/models/{_ID}/safetensors-metadata/{_FILE}$"),
    "resolve": re.compile(rf"/{_ID}/resolve/{_REVISION}/{_FILE}$"),
    "cached": re.compile(rf"/api/resolve-cache/models/{_ID}/{_REVISION}/{_FILE}$"),
}
_LOOP = re.compile(r"/loop/(\d{1,9})$")
_TEXTS = (".json", ".jsonl", ".txt", ".md", ".jinja", ".py", ".gitattributes")


class Refused(Exception):
    """A reply that says no, in the Hub's own words."""

    def __init__(self, status: int, code: str, message: str, commit: Commit | None = None) -> None:
        super().__init__(message)
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit.sha if commit else ""}
        self.reply = _json({"error": message}, status=status, headers={name: value for name, value in headers.items() if value})


class Moved(Exception):
    """The repository has another name now."""


class Site:
    """The repositories and the answers about them.

    `link_ttl`: the seconds for which a signed address of the storage host is good.
    `hash_limit`: larger files, and large ones that are mostly a hole, get a made-up sha256: a sparse terabyte costs nothing.
    `resolve_cache`: small files answer 307 to /api/resolve-cache first, as the Hub's do since 2025.
    `compress`: JSON and text go out gzipped to whom accepts it, and then ignore ranges, as the Hub's do.
    `page_size`: the entries of one page of a tree listing.
    """

    def __init__(
        self,
        *,
        link_ttl: float = 3600.0,
        hash_limit: int = 1 << 30,
        resolve_cache: bool = True,
        compress: bool = True,
        page_size: int = 1000,
    ) -> None:
        self.link_ttl, self.hash_limit, self.page_size = link_ttl, hash_limit, page_size
        self.resolve_cache, self.compress = resolve_cache, compress
        self.endpoint = self.cdn_endpoint = ""
        self.tokens: set[str] = set()  # the valid ones; every repository's own is among them
        self._repos: dict[str, Repo] = {}
        self._renamed: dict[str, str] = {}
        self._stored: dict[str, Blob] = {}
        self._secret = secrets.token_bytes(16)

    def add(
        self,
        repo_id: str,
        folder: str | Path,
        *,
        revision: str = "main",
        gated: bool | str = False,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Publish the folder as it is now under a branch or tag and return the commit.

        Who may read the repository is as the last call says: `token` opens a gated or private one.
        """
        commit = snapshot(Path(folder).resolve(), hash_limit=self.hash_limit)
        repo = self._repos.setdefault(repo_id, Repo(repo_id))
        repo.gated, repo.private, repo.token = "auto" if gated is True else gated, private, token
        repo.put(revision, commit)
        self.tokens |= {token} if token else set()
        self._stored |= {blob.sha256: blob for blob in commit.blobs.values() if blob.sha256}
        return commit.sha

    def rename(self, old: str, new: str) -> None:
        """Redirect an old name of a repository to its present one, as the Hub does for ever."""
        self._renamed[old] = new

    def expire_links(self) -> None:
        """Refuse every signed address given out so far."""
        self._secret = secrets.token_bytes(16)

    def answer(self, request: Request) -> Response:
        """Return the reply that a server in good health gives."""
        try:
            reply = self._from_storage(request) if request.server == "cdn" else self._route(request)
        except Refused as refused:
            reply = refused.reply
        except Moved as moved:
            reply = _redirect(307, str(moved))
        return self._compressed(request, reply)

    def repo(self, request: Request, repo_id: str) -> Repo:
        """Return the repository, if the request's token may know of it."""
        if repo_id in self._renamed:
            raise Moved(request.path.replace(repo_id, self._renamed[repo_id], 1))
        repo = self._repos.get(repo_id)
        if repo and (not repo.private or (request.token and request.token == repo.token)):
            return repo
        if request.token:
            raise Refused(404, "RepoNotFound", "Repository not found")
        raise Refused(401, "RepoNotFound", "Invalid username or password.")

    def _route(self, request: Request) -> Response:
        if match := _LOOP.match(request.path):
            return _redirect(302, f"/loop/{int(match[1]) + 1}")
        if request.token and request.token not in self.tokens:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        for name, pattern in _ROUTES.items():
            if request.method in ("GET", "HEAD") and (match := pattern.match(request.path)):
                return getattr(self, f"_{name}")(request, _Target(self, request, match))
        raise Refused(404, "", "Sorry, we can't find the page you are looking for.")

    def _info(self, request: Request, target: _Target) -> Response:
        return _json(target.repo.info(target.commit, blobs=_is_true(request, "blobs")))

    def _tree(self, request: Request, target: _Target) -> Response:
        entries = target.commit.tree(target.file.strip("/"), recursive=_is_true(request, "recursive"))
        if entries is None:
            raise Refused(404, "EntryNotFound", f'{target.file} does not exist on "{target.revision}"', target.commit)
        start = int(base64.urlsafe_b64decode(request.query.get("cursor", "MA==")))
        stop = start + min(self.page_size, int(request.query.get("limit", self.page_size)))
        headers = target.headers
        if stop < len(entries):
            query = dict(request.query) | {"cursor": base64.urlsafe_b64encode(str(stop).encode()).decode()}
            headers["Link"] = f'<{self.endpoint}{request.path}?{urlencode(query)}>; rel="next"'
        return _json(entries[start:stop], headers=headers)

    def _digest(self, request: Request, target: _Target) -> Response:
        index = target.open()
        return _json(target.commit.headers(index.name), headers=target.headers)

    def _resolve(self, request: Request, target: _Target) -> Response:
        blob = target.open()
        linked = target.headers | {"X-Linked-Size": str(blob.size), "X-Linked-Etag": blob.etag}
        if blob.sha256:
            return _redirect(302, self._link(blob, blob.sha256), headers=linked | {"Accept-Ranges": "bytes"}, file=blob.name)
        if not self.resolve_cache:
            return self._cached(request, target)
        there = f"/api/resolve-cache/models/{target.repo.id}/{target.commit.sha}/{quote(blob.name)}"
        there += f"?{quote(request.path, safe='')}=&etag={quote(blob.etag)}"
        return _redirect(307, there, headers=linked | {"ETag": blob.etag}, file=blob.name)

    def _cached(self, request: Request, target: _Target) -> Response:
        return content(request, _file(target.open(), target.headers))

    def _link(self, blob: Blob, digest: str) -> str:
        """Return the signed address of a blob on the storage host."""
        path = f"/repos/{digest[:2]}/{digest[2:4]}/{digest}"
        expires = str(int(time() + self.link_ttl))
        disposition = f"inline; filename*=UTF-8''{quote(blob.name.rpartition('/')[2])}"
        query = {"response-content-disposition": disposition, "Expires": expires, "Signature": self._sign(path, expires)}
        return f"{self.cdn_endpoint}{path}?{urlencode(query)}"

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()

    def _from_storage(self, request: Request) -> Response:
        """Return the storage host's answer: the file, to whom has a valid link; it knows no tokens."""
        expires = request.query.get("Expires", "0")
        signed = hmac.compare_digest(request.query.get("Signature", ""), self._sign(request.path, expires))
        blob = self._stored.get(request.path.rpartition("/")[2])
        if blob is None or not signed or int(expires) <= time():
            return text(403, "<Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>", kind="application/xml")
        return content(request, _file(blob, {"Content-Disposition": request.query.get("response-content-disposition", "inline")}))

    def _compressed(self, request: Request, reply: Response) -> Response:
        if not self.compress or request.server == "cdn" or "gzip" not in request.headers.get("accept-encoding", ""):
            return reply
        whole = reply.whole or reply.body
        kind = reply.header("Content-Type") or ""
        if reply.status not in (200, 206) or not kind.startswith(("text/", "application/json")) or len(whole) < 1024:
            return reply
        packed = Body(_gzip(whole.read(0, len(whole))))
        headers = {"Content_Encoding": "gzip", "Vary": "Accept-Encoding", "Content_Range": None, "Accept_Ranges": None}
        return replace(reply.with_headers(**headers), status=200, body=packed, whole=None)


class _Target:
    """The repository, the commit and the file that an address names."""

    def __init__(self, site: Site, request: Request, match: re.Match[str]) -> None:
        parts = {name: unquote(value) for name, value in match.groupdict().items() if value}
        self.file, self.revision = parts.get("file", ""), parts.get("revision", "main")
        self.token = request.token
        self.repo = site.repo(request, parts["id"])
        commit = self.repo.at(self.revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {self.revision}")
        self.commit = commit

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Repo-Commit": self.commit.sha}

    def open(self) -> Blob:
        """Return the file, to whom may read it: of a gated repository only the listing is public."""
        restricted = f"Access to model {self.repo.id} is restricted"
        if self.repo.gated and not self.token:
            raise Refused(401, "GatedRepo", f"{restricted}. You must have access to it and be authenticated to access it. Please log in.")
        if self.repo.gated and self.token != self.repo.token:
            raise Refused(403, "GatedRepo", f"{restricted} and you are not in the authorized list. Visit its page to ask for access.")
        if self.file not in self.commit.blobs:
            raise Refused(404, "EntryNotFound", "Entry not found", self.commit)
        return self.commit.blobs[self.file]


def _is_true(request: Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("true", "1")


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return text(status, json.dumps(value, separators=(",", ":"), ensure_ascii=False), kind="application/json", headers=headers)


def _redirect(status: int, location: str, *, headers: Mapping[str, str] | None = None, file: str = "") -> Response:
    told = "Temporary Redirect" if status == 307 else "Found"
    reply = text(status, f"{told}. Redirecting to {location}", headers={"Location": location} | dict(headers or {}))
    return replace(reply, file=file)


def _file(blob: Blob, headers: Mapping[str, str]) -> Response:
    textual = blob.sha256 is None and blob.name.endswith(_TEXTS)
    kind = "text/plain; charset=utf-8" if textual else "application/octet-stream"
    body = Body(path=blob.path, start=0, stop=blob.size)
    return Response(200, {"Content-Type": kind, "ETag": blob.etag} | dict(headers), body, file=blob.name)


@lru_cache(maxsize=16)
def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)
