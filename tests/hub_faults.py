"""What can go wrong between a hub and its client: each fault turns a good reply into a bad one.

A `Fault` says which replies it strikes and how often; the functions below it make the usual ones:

    server.faults += [status(429, retry_after=1), reset(after=100, path="*.safetensors", times=2)]
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from fnmatch import fnmatch
from time import time
from typing import TypedDict, Unpack

from hub_reply import Request, Response, text

# None: this reply can't be spoilt in this way (no body, no range ...), so the fault waits for another one.
Spoil = Callable[[Request, Response], Response | None]


class Rule(TypedDict, total=False):
    """Which replies a fault strikes."""

    path: str  # a pattern for the URL's path or for the file's path in the repository
    server: str  # "hub" or "cdn"
    method: str
    times: int | None  # how often; None: always
    skip: int  # let so many pass first
    probability: float  # per reply
    seed: int


@dataclass
class Fault:
    """A way to spoil a reply, and the replies that it strikes."""

    name: str
    spoil: Spoil
    path: str = "*"
    server: str | None = None
    method: str | None = None
    times: int | None = 1
    skip: int = 0
    probability: float = 1.0
    seed: int = 0
    _dice: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def strike(self, request: Request, reply: Response) -> Response | None:
        """Return the spoilt reply, or None where the rule does not meet this one."""
        if self.times == 0 or not self._concerns(request, reply):
            return None
        spoilt = self.spoil(request, reply)
        if spoilt is None or self._dice.random() >= self.probability:
            return None
        if self.skip:
            self.skip -= 1
            return None
        if self.times is not None:
            self.times -= 1
        return spoilt

    def _concerns(self, request: Request, reply: Response) -> bool:
        if self.server not in (None, request.server) or self.method not in (None, request.method):
            return False
        return fnmatch(request.path, self.path) or bool(reply.file and fnmatch(reply.file, self.path))


def strike(faults: list[Fault], request: Request, reply: Response) -> tuple[str, Response]:
    """Apply the first fault that meets the reply; spent faults leave the list."""
    for fault in list(faults):
        spoilt = fault.strike(request, reply)
        if fault.times == 0:
            faults.remove(fault)
        if spoilt is not None:
            return fault.name, spoilt
    return "", reply


def status(code: int, *, retry_after: int | str | None = None, **rule: Unpack[Rule]) -> Fault:
    """Answer with an error; `retry_after` in seconds, or a date as `http_date` makes it."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(f"status {code}", lambda request, reply: text(code, f"Error {code}", headers=headers), **rule)


def http_date(seconds: float) -> str:
    """Return the moment so many seconds from now in the form that HTTP headers use."""
    return formatdate(time() + seconds, usegmt=True)


def reset(after: int | None = 0, **rule: Unpack[Rule]) -> Fault:
    """Reset the connection after so many bytes of the body, or before the status line."""
    if after is None:
        return Fault("reset", lambda request, reply: replace(reply, reset=True), **rule)
    return _of_bodies("reset", lambda reply: replace(reply, cut=after, reset=True), after, rule)


def short(after: int = 0, **rule: Unpack[Rule]) -> Fault:
    """Promise the whole body, send so many bytes of it, close."""
    return _of_bodies("short", lambda reply: replace(reply, cut=after), after, rule)


def stall(seconds: float, after: int | None = None, **rule: Unpack[Rule]) -> Fault:
    """Fall silent after so many bytes of the body, or before the status line."""
    if after is None:
        return Fault("stall", lambda request, reply: replace(reply, stall=seconds), **rule)
    return _of_bodies("stall", lambda reply: replace(reply, stall=seconds, stall_at=after), after, rule)


def drip(piece: int, pause: float, **rule: Unpack[Rule]) -> Fault:
    """Send the body in small pieces with pauses."""
    return _of_bodies("drip", lambda reply: replace(reply, piece=piece, pause=pause), 0, rule)


def drip_head(pause: float, **rule: Unpack[Rule]) -> Fault:
    """Send the status line and the headers byte by byte with pauses."""
    return Fault("dripped head", lambda request, reply: replace(reply, head_pause=pause), **rule)


def flip(at: int, **rule: Unpack[Rule]) -> Fault:
    """Invert one byte of the body; every length stays right."""
    return _of_bodies("flip", lambda reply: replace(reply, flip=at), at, rule)


def chunked(**rule: Unpack[Rule]) -> Fault:
    """Send the body in chunks, its length untold."""
    return _of_bodies("chunked", lambda reply: replace(reply, chunked=True), 0, rule)


def huge_length(length: int = 1 << 62, **rule: Unpack[Rule]) -> Fault:
    """Claim an absurd Content-Length, send the body, close."""
    return _of_bodies("huge length", lambda reply: _claim(reply, length), 0, rule)


def wrong_range(shift: int = 1, **rule: Unpack[Rule]) -> Fault:
    """Answer a range with a Content-Range (and bytes) other than those asked for."""

    def spoil(request: Request, reply: Response) -> Response | None:
        body, whole = reply.body, reply.whole
        if reply.status != 206 or whole is None or whole.path is None:
            return None
        start, stop = body.start + shift, min(body.stop + shift, len(whole))
        if start < 0 or start >= stop:
            return None
        moved = reply.with_headers(Content_Range=f"bytes {start}-{stop - 1}/{len(whole)}")
        return replace(moved, body=replace(body, start=start, stop=stop))

    return Fault("wrong range", spoil, **rule)


def ignore_range(*, untold: bool = False, **rule: Unpack[Rule]) -> Fault:
    """Answer a range with 200 and the whole file, its length untold if so wished."""

    def spoil(request: Request, reply: Response) -> Response | None:
        if reply.status != 206 or reply.whole is None:
            return None
        return replace(reply.with_headers(Content_Range=None), status=200, body=reply.whole, chunked=untold)

    return Fault("ignored range", spoil, **rule)


def moved_commit(commit: str = "f" * 40, **rule: Unpack[Rule]) -> Fault:
    """Claim another commit, as if the branch had moved between two requests."""
    return _of_headers("moved commit", {"X-Repo-Commit": commit}, rule)


def changed_etag(etag: str = '"changed"', **rule: Unpack[Rule]) -> Fault:
    """Claim another ETag, as if the file had been replaced between two requests."""
    return _of_headers("changed etag", {"ETag": etag, "X-Linked-Etag": etag}, rule)


def weak_etag(**rule: Unpack[Rule]) -> Fault:
    """Call the ETag weak, as servers that compress and caches between do."""

    def spoil(request: Request, reply: Response) -> Response | None:
        etag = reply.header("ETag")
        return None if etag is None else reply.with_headers(ETag=f"W/{etag}")

    return Fault("weak etag", spoil, **rule)


def forget_sizes(**rule: Unpack[Rule]) -> Fault:
    """List the files without their sizes, as mirrors do."""

    def spoil(request: Request, reply: Response) -> Response | None:
        listing = json.loads(reply.body.data)
        for line in listing["siblings"]:
            line.pop("size", None)
        return replace(reply, body=replace(reply.body, data=json.dumps(listing).encode()))

    return Fault("forgotten sizes", spoil, **rule)


def html(page: str = "<!doctype html><title>Sign in</title>", **rule: Unpack[Rule]) -> Fault:
    """Answer 200 with a web page, as captive portals and proxies do."""
    return Fault("html", lambda request, reply: text(200, page, kind="text/html"), **rule)


def redirect(to: str, **rule: Unpack[Rule]) -> Fault:
    """Redirect anywhere: `file:///etc/passwd`, another host, a path of this one."""
    return Fault("redirect", lambda request, reply: text(302, "Found", headers={"Location": to}), **rule)


def redirect_loop(**rule: Unpack[Rule]) -> Fault:
    """Redirect to an address from which redirects never end."""
    return replace(redirect("/loop/0", **rule), name="redirect loop")


def _of_bodies(name: str, spoil: Callable[[Response], Response], at: int, rule: Rule) -> Fault:
    """Return a fault of good replies whose body is longer than `at`."""

    def spoil_body(request: Request, reply: Response) -> Response | None:
        return spoil(reply) if reply.status in (200, 206) and request.method != "HEAD" and len(reply.body) > at else None

    return Fault(name, spoil_body, **rule)


def _of_headers(name: str, headers: dict[str, str], rule: Rule) -> Fault:
    """Return a fault of replies that carry one of these headers, with other values."""

    def spoil(request: Request, reply: Response) -> Response | None:
        changed = {key.replace("-", "_"): value for key, value in headers.items() if reply.header(key) is not None}
        return reply.with_headers(**changed) if changed else None

    return Fault(name, spoil, **rule)


def _claim(reply: Response, length: int) -> Response:
    return replace(reply.with_headers(Content_Length=str(length)), cut=len(reply.body))
