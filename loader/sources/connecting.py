"""Connections to a host: certificates, proxies from the environment, and answers that are given up when they drip."""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import NetworkError

_LEAST_RATE = 1024  # bytes a second, over any stretch as long as the timeout
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # certificates to trust instead of the system's


class SlowAnswerError(OSError):
    """An answer that goes on coming, but so slowly that it would never end."""


class _PacedSocket(io.RawIOBase):
    """A socket's bytes, as long as they come in time: whatever is read, no server can hold the reader for ever.

    First the head of the answer, within the socket's timeout; then at least `_LEAST_RATE` in each such stretch of the body.
    """

    def __init__(self, raw: io.RawIOBase, timeout: float) -> None:
        self._raw = raw
        self._timeout = timeout
        self._reads_head = True
        self._begin_stretch()

    def _begin_stretch(self) -> None:
        self._began, self._received = time.monotonic(), 0

    def begin_body(self) -> None:
        """The head is complete: from now on only the rate counts."""
        self._reads_head = False
        self._begin_stretch()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        count = self._raw.readinto(buffer)
        self._received += count or 0
        if count and time.monotonic() - self._began > self._timeout:
            if self._reads_head:
                raise SlowAnswerError(f"no whole head of an answer within {self._timeout:.0f} s")
            if self._received < _LEAST_RATE * self._timeout:
                raise SlowAnswerError(f"only {self._received:,} bytes in {self._timeout:.0f} s")
            self._begin_stretch()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedAnswer(http.client.HTTPResponse):
    """An answer that is read at a pace, its status line and headers included."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._paced = _PacedSocket(sock.makefile("rb", buffering=0), sock.gettimeout() or 0.0)
        self.fp.close()
        self.fp = io.BufferedReader(self._paced)

    def begin(self) -> None:
        super().begin()
        self._paced.begin_body()


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, and the headers that let us through."""

    host: str
    port: int | None
    headers: Mapping[str, str]


def connect(parts: SplitResult, proxy: Proxy | None, *, timeout: float, certificates: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """A connection to the address's host, opened at the first request: through the proxy, where there is one."""
    host, port = (proxy.host, proxy.port) if proxy else (parts.hostname or "", parts.port)
    if certificates is None:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=certificates)
        if proxy:
            connection.set_tunnel(parts.hostname or "", parts.port or 443, headers=dict(proxy.headers))
    connection.response_class = _PacedAnswer
    return connection


def trusted_certificates() -> ssl.SSLContext:
    """The certificates that vouch for a server: the system's, or those that the environment names instead. Raises NetworkError."""
    variable = next((name for name in _BUNDLES if os.environ.get(name)), None)
    bundle = os.environ[variable] if variable else None
    try:
        if bundle is not None and os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise NetworkError(f"the certificates in {bundle} can't be read: {error.strerror}", hint=f"correct {variable}") from None


def proxy_for(parts: SplitResult) -> Proxy | None:
    """The proxy that the environment names for this address, unless NO_PROXY excepts it. Raises NetworkError for one of another kind."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    address = proxies.get(parts.scheme) or proxies.get("all")
    if not address or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return _parse_proxy(address if "://" in address else f"http://{address}")


def _parse_proxy(address: str) -> Proxy:
    # Its address may hold a password: messages show no more than the kind.
    proxy = urlsplit(address)
    hint = "name an http:// one in HTTPS_PROXY, except the host in NO_PROXY, or download the model first"
    if proxy.scheme != "http":
        raise NetworkError(f"the proxy in the environment is a {proxy.scheme}:// one, which mlload does not support", hint=hint)
    try:
        host, port = proxy.hostname, proxy.port
    except ValueError:
        host, port = None, None
    if not host:
        raise NetworkError("the proxy in the environment is not an address", hint=hint)
    if proxy.username is None:
        return Proxy(host, port, {})
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return Proxy(host, port, {"Proxy-Authorization": f"Basic {b64encode(credentials).decode('ascii')}"})
