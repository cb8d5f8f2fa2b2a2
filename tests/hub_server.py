"""A server on loopback that behaves like huggingface.co and its storage host, and fails on demand.

    with hub() as server:
        server.add("org/name", folder)
        server.faults.append(status(503, path="*.safetensors"))
        ...  # a client, with HF_ENDPOINT=server.endpoint
        assert server.requests == 5 and not server.leaks

As a process of its own, so that it does not share the client's interpreter:

    python tests/hub_server.py --repo org/name=FOLDER --delay-ms 50 --port-file P --log-file L
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from http.client import responses
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl

from hub_api import Site
from hub_faults import Fault, strike
from hub_reply import Body, Request, Response

_UNSPEAKABLE = re.compile(r"[^ -~]")  # in a header: file names may hold anything


@dataclass
class Record:
    """One request and what came of it."""

    server: str  # "hub" or "cdn"
    connection: int
    at: float  # arrival, on the monotonic clock
    method: str
    path: str
    range: str | None
    had_token: bool
    file: str = ""  # the path in the repository, where the reply is about one
    status: int = 0
    bytes: int = 0  # of the body, as handed to the kernel
    fault: str = ""


class HubServer(Site):
    """The site with its faults, its delay and the log of what was asked."""

    def __init__(self, *, delay: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.delay = delay  # seconds added to every request
        self.faults: list[Fault] = []
        self.log: list[Record] = []
        self.crashes: list[BaseException] = []  # bugs of this server; `hub` raises them
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def reset_log(self) -> None:
        """Forget what was asked so far."""
        with self.lock:
            self.log = []

    @property
    def requests(self) -> int:
        return len(self.log)

    @property
    def bytes_sent(self) -> int:
        return sum(record.bytes for record in self.log)

    @property
    def connections(self) -> int:
        return len({record.connection for record in self.log})

    @property
    def leaks(self) -> list[Record]:
        """Requests that carried a token to the storage host."""
        return [record for record in self.log if record.server == "cdn" and record.had_token]

    def reply(self, request: Request, record: Record) -> Response:
        """Return the reply after the delay, spoilt by the first fault that meets it; note both in the log."""
        self.sleep(self.delay)
        reply = self.answer(request)
        with self.lock:
            record.file = reply.file
            record.fault, reply = strike(self.faults, request, reply)
            record.status = reply.status
            self.log.append(record)
        return reply

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the server's end."""
        if seconds > 0:
            self.closing.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a reply in two writes waits 40 ms for the client's acknowledgement
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]  only a _Server makes handlers

    def setup(self) -> None:
        super().setup()
        self.number = next(_Server.numbers)

    def do_GET(self) -> None:
        """Answer any method."""
        request = self._request()
        asked, had_token = request.headers.get("range"), "authorization" in request.headers
        record = Record(self.server.name, self.number, monotonic(), request.method, request.path, asked, had_token)
        reply = self.server.hub.reply(request, record)
        if reply.stall_at is None:
            self.server.hub.sleep(reply.stall)
        if reply.reset or reply.cut is not None:
            self.close_connection = True
        if reply.reset and reply.cut is None:
            self._reset()
        else:
            self._send(reply, record)

    do_HEAD = do_POST = do_GET

    def _request(self) -> Request:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.rfile.read(int(headers.get("content-length", 0)))
        return Request(self.server.name, self.command, path, dict(parse_qsl(query)), headers)

    def _send(self, reply: Response, record: Record) -> None:
        head, body = self._head(reply), reply.body
        for byte in head if reply.head_pause else b"":
            self.wfile.write(bytes([byte]))
            self.server.hub.sleep(reply.head_pause)
        head = b"" if reply.head_pause else head
        if self.command == "HEAD" or reply.status == HTTPStatus.NOT_MODIFIED:
            self.wfile.write(head)
        elif not reply.plain:
            self.wfile.write(head)
            self._send_spoilt(reply, record)
        else:
            record.bytes = len(body)  # before it is sent: a client that has it all may look at once
            if body.path is None:
                self.wfile.write(head + body.data)
            else:
                self.wfile.write(head)
                self._send_file(body, body.path, record)

    def _head(self, reply: Response) -> bytes:
        framing = {"Transfer-Encoding": "chunked"} if reply.chunked else {"Content-Length": str(len(reply.body))}
        connection = {"Connection": "close" if self.close_connection else "keep-alive", "Date": self.date_time_string()}
        headers = framing | dict(reply.headers) | connection
        status = f"HTTP/1.1 {reply.status} {responses.get(reply.status, 'Unknown')}"
        lines = [status, *(f"{name}: {_UNSPEAKABLE.sub('?', value)}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send_file(self, body: Body, path: Path, record: Record) -> None:
        """Send a span of a file without passing it through Python."""
        if not len(body):
            return
        with path.open("rb") as file:
            try:
                self.connection.sendfile(file, body.start, len(body))
            finally:
                record.bytes = max(file.tell() - body.start, 0)
                self.close_connection |= record.bytes < len(body)  # the file shrank since it was added

    def _send_spoilt(self, reply: Response, record: Record) -> None:
        body = _first(reply.body, reply.cut)
        for piece in body.pieces(reply.piece, marks=(reply.stall_at or 0,)):
            if record.bytes == reply.stall_at:
                self.server.hub.sleep(reply.stall)
            self.server.hub.sleep(reply.pause)
            at, record.bytes = record.bytes, record.bytes + len(piece)
            sent = _flipped(piece, -1 if reply.flip is None else reply.flip - at)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if reply.chunked else sent)
        if reply.chunked and reply.cut is None:
            self.wfile.write(b"0\r\n\r\n")
        if reply.reset:
            self._reset()

    def _reset(self) -> None:
        """Close at once with a reset: a lingering time of zero, and no orderly shutdown before."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: the log is a list."""


class _Server(ThreadingTCPServer):
    """http.server's own class looks the host's name up, which may wait for a DNS server."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 512
    numbers = itertools.count(1)

    def __init__(self, hub: HubServer, name: str, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.name = hub, name
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve until the end of the block; then end every connection and wait for its thread."""
        loop = threading.Thread(target=self.serve_forever, args=(0.02,), name=f"hub_server {self.name}")
        loop.start()
        try:
            yield self.url
        finally:
            self.hub.closing.set()
            self.shutdown()
            loop.join()
            self._end_connections()
            self.server_close()

    def _end_connections(self) -> None:
        with self.hub.lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.hub.lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self.hub.lock:
            self._open.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let clients leave when they like; keep everything else for `hub` to raise."""
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError | ssl.SSLError):
            self.hub.crashes.append(error)


@contextmanager
def hub(*, certificate: Path | None = None, **options: Any) -> Iterator[HubServer]:
    """Run a hub and its storage host on two free ports, with TLS if there is a `certificate` (PEM, with its key).

    Other options as `HubServer` and `Site` take them.
    """
    server = HubServer(**options)
    running = [_Server(server, name, certificate).running() for name in ("hub", "cdn")]
    with running[0] as server.endpoint, running[1] as server.cdn_endpoint:
        yield server
    if server.crashes:
        raise RuntimeError("the test's own server has a bug") from server.crashes[0]


def _first(body: Body, size: int | None) -> Body:
    if size is None or size >= len(body):
        return body
    return Body(body.data[:size]) if body.path is None else replace(body, stop=body.start + size)


def _flipped(piece: bytes, at: int) -> bytes:
    if not 0 <= at < len(piece):
        return piece
    return piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A stand-in for huggingface.co on loopback.")
    parser.add_argument("--repo", action="append", required=True, metavar="ORG/NAME=FOLDER")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="added to every request")
    parser.add_argument("--port-file", type=Path, help="where to write the endpoint, too")
    parser.add_argument("--log-file", type=Path, help="where to write the log, a JSON object a line, at the end (SIGTERM, SIGINT)")
    parser.add_argument("--direct", action="store_true", help="answer small files without the redirect to /api/resolve-cache")
    parser.add_argument("--no-compress", action="store_true", help="never gzip")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Serve folders until a signal says to end; the endpoint is told on stdout once it answers."""
    options = _options(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with hub(delay=options.delay_ms / 1000, resolve_cache=not options.direct, compress=not options.no_compress) as server:
        for repo in options.repo:
            server.add(*repo.split("=", 1))
        if options.port_file:
            beside = options.port_file.with_suffix(".new")
            beside.write_text(server.endpoint)
            beside.rename(options.port_file)
        sys.stdout.write(f"{server.endpoint}\n")
        sys.stdout.flush()
        stop.wait()
    if options.log_file:
        options.log_file.write_text("".join(json.dumps(asdict(record)) + "\n" for record in server.log))


if __name__ == "__main__":
    main()
