"""An HTTP proxy on loopback: forwards whole addresses, tunnels what is asked with CONNECT, and may want a password."""

from __future__ import annotations

import http.client
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from urllib.parse import urlsplit


class Proxy(ThreadingTCPServer):
    """What it was asked for is in `asked`, a line for each request; `credentials` (user:password) are wanted where given."""

    daemon_threads = True

    def __init__(self, credentials: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.expected = None if credentials is None else f"Basic {b64encode(credentials.encode()).decode()}"
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride]  only a Proxy makes handlers

    def do_GET(self) -> None:
        """Ask the server that the whole address names, and pass its answer on."""
        if not self._is_let_through():
            return
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        connection.request(self.command, self.path.partition(parts.netloc)[2], headers=headers)
        answer = connection.getresponse()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.read())
        connection.close()

    do_HEAD = do_GET

    def do_CONNECT(self) -> None:
        """Pass bytes both ways until one side ends."""
        if not self._is_let_through():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as server:
            self.send_response_only(200)
            self.end_headers()
            threading.Thread(target=_pass_on, args=(self.connection, server), daemon=True).start()
            _pass_on(server, self.connection)
        self.close_connection = True

    def _is_let_through(self) -> bool:
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.expected in (None, self.headers.get("Proxy-Authorization")):
            return True
        self.send_error(407)
        return False

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: what was asked is in a list."""


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(credentials: str | None = None) -> Iterator[Proxy]:
    """Run a proxy on a free port."""
    server = Proxy(credentials)
    loop = threading.Thread(target=server.serve_forever, args=(0.02,))
    loop.start()
    try:
        yield server
    finally:
        server.shutdown()
        loop.join()
        server.server_close()
