"""Ranged HTTP reads that survive a bad network: kept connections, bounded bodies, retries that honour Retry-After."""

from __future__ import annotations

import http.client
import random
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, replace
from email.message import Message
from functools import cached_property
from typing import NoReturn
from urllib.parse import SplitResult, urljoin, urlsplit

from ..errors import NetworkError
from .connecting import Proxy, connect, proxy_for, trusted_certificates

_TRIES = 5
_NAME_TRIES = 2  # for a host whose name is not known: asking on for it rarely helps
_BACK_OFF = 0.25  # seconds before the second try, doubled for each one after it
_LONGEST_WAIT = 30.0  # a Retry-After beyond it is reported, not waited for
_TIMEOUT = 10.0  # seconds without a byte
_MAX_REDIRECTS = 5
_RETRIED = frozenset({408, 429, 500, 502, 503, 504, *range(520, 530)})  # 520 to 529: a CDN's, of the server behind it
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PROXY_REFUSES = re.compile(r"Tunnel connection failed: (4\d\d)")  # http.client's words


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is no passing fault: its status is the caller's to judge."""

    url: str  # after redirects
    status: int
    headers: Message  # the final answer's; names in any case
    body: bytes
    redirect_headers: Message | None  # the first answer's, where it was a redirect


class _TransientError(Exception):
    """Worth another try up to `tries` in all, after `wait` seconds where the server said so."""

    def __init__(self, reason: str, *, wait: float | None = None, tries: int = _TRIES) -> None:
        super().__init__(reason)
        self.wait = wait
        self.tries = tries


class HttpClient:
    """GET requests over kept connections. Safe to share between threads."""

    def __init__(self, *, token: str | None = None, token_origin: str = "", timeout: float = _TIMEOUT) -> None:
        self._token = token
        origin = urlsplit(token_origin)
        self._token_origin = (origin.scheme, origin.netloc)  # nothing else ever sees the token
        self._timeout = timeout
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes_read = 0

    def get(self, url: str, *, limit: int, byte_range: tuple[int, int] | None = None) -> Response:
        """The answer to `url` after redirects, with at most `limit` bytes of body.

        `byte_range` is (first, last), both included. Raises NetworkError when every try failed.
        """
        first_headers: Message | None = None
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._persist("GET", url, limit, byte_range)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return replace(response, redirect_headers=first_headers)
            first_headers = first_headers or response.headers
            url = urljoin(url, location)
        raise NetworkError(f"{urlsplit(url).netloc} redirects in a circle")

    def head(self, url: str) -> Response:
        """The answer to `url` without its body, and without following a redirect. Raises as `get`."""
        return self._persist("HEAD", url, 0, None)

    def _persist(self, method: str, url: str, limit: int, byte_range: tuple[int, int] | None) -> Response:
        """One request's answer, asked for again after passing faults."""
        for attempt in range(_TRIES):
            try:
                return self._once(method, url, limit, byte_range)
            except _TransientError as error:
                self._wait(error, attempt, url)
            except (OSError, http.client.HTTPException) as error:
                self.close()  # a server that closed one idle connection has closed the others too
                self._wait(self._explained(error, urlsplit(url)), attempt, url)
            except ValueError as error:  # of http.client and urllib: addresses and headers that break their grammar
                raise NetworkError(f"{urlsplit(url).netloc} is no address, or its answer is malformed: {error}") from None
        raise AssertionError("unreachable: the last try raises")

    def _wait(self, error: _TransientError, attempt: int, url: str) -> None:
        host = urlsplit(url).netloc
        if error.wait is not None and error.wait > _LONGEST_WAIT:
            raise NetworkError(
                f"{host} asks to wait {error.wait:.0f} s before the next request ({error})", hint="try again later"
            ) from None
        if attempt >= error.tries - 1:
            raise NetworkError(f"{host} failed {attempt + 1} times, the last time with: {error}", hint="check the network") from None
        delay = _BACK_OFF * 2**attempt * random.uniform(0.75, 1.25) if error.wait is None else error.wait
        time.sleep(delay)

    def _explained(self, error: Exception, parts: SplitResult) -> _TransientError:
        """What went wrong, in words. Raises NetworkError for what would go wrong again."""
        if isinstance(error, ssl.SSLCertVerificationError):
            _refuse_certificate(error, parts)
        if refused := _PROXY_REFUSES.match(str(error)):
            _refuse_proxy(parts, refused[1])
        if isinstance(error, socket.gaierror):
            proxy = proxy_for(parts)
            whose = "its name" if proxy is None else f"the name of the proxy, {proxy.host},"
            return _TransientError(f"{whose} is not known ({error.strerror})", tries=_NAME_TRIES)
        if isinstance(error, TimeoutError):
            return _TransientError(f"no answer within {self._timeout:.0f} s")
        if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError):
            return _TransientError("the connection was closed")
        return _TransientError(str(error) or type(error).__name__)

    def _once(self, method: str, url: str, limit: int, byte_range: tuple[int, int] | None) -> Response:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NetworkError(f"asked to read '{url}', which is no web address")
        proxy = proxy_for(parts)
        connection = self._connection(parts, proxy)
        try:
            connection.request(method, _target(parts, proxy), headers=self._headers(parts, proxy, byte_range))
            answer = connection.getresponse()
            response = Response(url, answer.status, answer.headers, self._body(answer, limit), None)
        except BaseException:
            connection.close()
            raise
        self._keep(parts, connection, reusable=answer.isclosed() and not answer.will_close)
        if response.status == 407:
            _refuse_proxy(parts, "407")
        if response.status in _RETRIED:
            raise _TransientError(f"status {response.status}", wait=_retry_after(response.headers))
        return response

    def _body(self, answer: http.client.HTTPResponse, limit: int) -> bytes:
        """The body, cut at `limit` bytes, in one piece from the start: it may be large. Raises on one shorter than announced."""
        body = answer.read(limit)
        with self._lock:
            self.requests += 1
            self.bytes_read += len(body)
        announced = "" if limit == 0 else answer.headers.get("Content-Length", "")
        if announced.isdecimal() and len(body) < min(int(announced), limit):
            raise _TransientError(f"the answer broke off after {len(body):,} of {int(announced):,} bytes")
        return body

    def _headers(self, parts: SplitResult, proxy: Proxy | None, byte_range: tuple[int, int] | None) -> dict[str, str]:
        headers = {"User-Agent": "mlload", "Accept-Encoding": "identity"}
        if byte_range is not None:
            headers["Range"] = f"bytes={byte_range[0]}-{byte_range[1]}"
        if self._token is not None and (parts.scheme, parts.netloc) == self._token_origin:
            headers["Authorization"] = f"Bearer {self._token}"
        if proxy is not None and parts.scheme == "http":  # inside a tunnel they would reach the server
            headers.update(proxy.headers)
        return headers

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return trusted_certificates()  # reading them takes a while: once for all connections

    def _connection(self, parts: SplitResult, proxy: Proxy | None) -> http.client.HTTPConnection:
        with self._lock:
            idle = self._idle.get((parts.scheme, parts.netloc))
            if idle:
                return idle.pop()
        certificates = self._certificates if parts.scheme == "https" else None
        return connect(parts, proxy, timeout=self._timeout, certificates=certificates)

    def _keep(self, parts: SplitResult, connection: http.client.HTTPConnection, *, reusable: bool) -> None:
        if not reusable:
            connection.close()
            return
        with self._lock:
            self._idle.setdefault((parts.scheme, parts.netloc), []).append(connection)

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            for connection in (each for idle in self._idle.values() for each in idle):
                connection.close()
            self._idle.clear()


def _target(parts: SplitResult, proxy: Proxy | None) -> str:
    """What the request asks for: a path, or of a proxy the whole address."""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"http://{parts.netloc.rpartition('@')[2]}{path}" if proxy is not None and parts.scheme == "http" else path


def _refuse_proxy(parts: SplitResult, status: str) -> NoReturn:
    hint = f"check {parts.scheme.upper()}_PROXY, and the user and password in it"
    raise NetworkError(f"the proxy refuses to connect to {parts.netloc}: status {status}", hint=hint) from None


def _refuse_certificate(error: ssl.SSLCertVerificationError, parts: SplitResult) -> NoReturn:
    hint = "if your organisation's proxy signs anew, name its certificates in REQUESTS_CA_BUNDLE"
    raise NetworkError(f"the certificate of {parts.netloc} is not trusted: {error.verify_message}", hint=hint) from None


def _retry_after(headers: Message) -> float | None:
    """Seconds to wait by the Retry-After header, which holds seconds or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value[:9])
    if not value:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
