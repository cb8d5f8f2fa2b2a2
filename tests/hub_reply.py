"""An HTTP request and its reply as plain values, so that a fault is a function from one reply to another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

MIB = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass(frozen=True)
class Request:
    """What a client asked of one of the two servers."""

    server: str  # "hub" or "cdn"
    method: str
    path: str  # as sent, still percent-encoded, without the query
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case

    @property
    def token(self) -> str | None:
        """The bearer token, if the client sent one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else None


@dataclass(frozen=True)
class Body:
    """Bytes in memory, or a span of a file that is never read whole."""

    data: bytes = b""
    path: Path | None = None
    start: int = 0
    stop: int = 0

    def __len__(self) -> int:
        return self.stop - self.start if self.path else len(self.data)

    def pieces(self, size: int, *, marks: tuple[int, ...] = ()) -> Iterator[bytes]:
        """Yield pieces of at most `size` bytes, with a border at every mark."""
        borders = sorted({mark for mark in marks if 0 < mark < len(self)} | {len(self)})
        position = 0
        for border in borders:
            while position < border:
                piece = self.read(position, min(position + size, border))
                if not piece:
                    return
                yield piece
                position += len(piece)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, counted from the start of the span."""
        if self.path is None:
            return self.data[start:stop]
        with self.path.open("rb") as file:
            file.seek(self.start + start)
            return file.read(stop - start)


@dataclass(frozen=True)
class Response:
    """A reply, and the way in which it is delivered; the defaults deliver it as it should be."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = Body()
    file: str = ""  # the repository's path of the file that the reply is about
    whole: Body | None = None  # the file that `body` is a part of

    cut: int | None = None  # end the connection after so many bytes of the body
    reset: bool = False  # ... by a reset, not by an orderly close (cut is None: before the status line)
    stall: float = 0.0  # send nothing for so many seconds
    stall_at: int | None = None  # ... after so many bytes of the body; None: before the status line
    head_pause: float = 0.0  # before each byte of the status line and the headers
    piece: int = MIB  # write the body in pieces of so many bytes
    pause: float = 0.0  # ... with a pause before each one
    chunked: bool = False  # Transfer-Encoding instead of Content-Length
    flip: int | None = None  # invert the byte at this offset of the body

    @property
    def plain(self) -> bool:
        """Whether the body goes out in one go."""
        spoiled = (self.cut, self.stall_at, self.flip) != (None, None, None)
        return not (spoiled or self.pause or self.chunked)

    def with_headers(self, **headers: str | None) -> Response:
        """Return the reply with headers set (or dropped, where None); `_` stands for `-`."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in {n.lower() for n in changed}}
        return replace(self, headers=kept | {name: value for name, value in changed.items() if value is not None})

    def header(self, name: str) -> str | None:
        """Return a header of the reply, whatever its case."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)


def text(status: int, message: str, *, kind: str = "text/plain", headers: Mapping[str, str] | None = None) -> Response:
    """Return a short reply."""
    return Response(status, {"Content-Type": f"{kind}; charset=utf-8"} | dict(headers or {}), Body(message.encode()))


def content(request: Request, reply: Response) -> Response:
    """Return the part of a whole file's 200 reply that the request's Range and conditions ask for."""
    etag = reply.header("ETag")
    reply = replace(reply.with_headers(Accept_Ranges="bytes"), whole=reply.body)
    if request.headers.get("if-match", etag) not in (etag, "*"):
        return replace(reply, status=412, body=Body())
    if request.headers.get("if-none-match", "") == etag:
        return replace(reply, status=304, body=Body())
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range", etag) != etag:
        return reply
    size = len(reply.body)
    span = _span(asked, size)
    if span is None:
        return reply
    start, stop = span
    if start >= stop:
        return replace(reply.with_headers(Content_Range=f"bytes */{size}"), status=416, body=Body())
    part = reply.with_headers(Content_Range=f"bytes {start}-{stop - 1}/{size}")
    return replace(part, status=206, body=_slice(reply.body, start, stop))


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """Return what a Range asks for; None where a server ignores it; an empty span where it can't be had."""
    match = _RANGE.match(asked.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def _slice(body: Body, start: int, stop: int) -> Body:
    if body.path is None:
        return Body(body.data[start:stop])
    return replace(body, start=body.start + start, stop=body.start + stop)
