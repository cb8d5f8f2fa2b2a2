"""Ranged HTTP reads that survive a bad network: kept connections, bounded bodies, retries that honour Retry-After."""

from __future__ import annotations

import http.client
import os
import random
import ssl
import threading
import time
from dataclasses import dataclass, replace
from email.message import Message
from urllib.parse import SplitResult, urljoin, urlsplit

from ..errors import NetworkError

_TRIES = 5
_BACK_OFF = 0.25  # seconds before the second try, doubled for each one after it
_LONGEST_WAIT = 30.0  # a Retry-After beyond it is reported, not waited for
_TIMEOUT = 10.0  # seconds without a byte
_DEADLINE = 60.0  # seconds for one answer, against servers that drip
_MAX_REDIRECTS = 5
_CHUNK = 1 << 18
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is no passing fault: its status is the caller's to judge."""

    url: str  # after redirects
    status: int
    headers: Message  # the final answer's; names in any case
    body: bytes
    redirect_headers: Message | None  # the first answer's, where it was a redirect


class _TransientError(Exception):
    """Worth another try, after `wait` seconds where the server said so."""

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class HttpClient:
    """GET requests over kept connections. Safe to share between threads."""

    def __init__(self, *, token: str | None = None, token_origin: str = "") -> None:
        self._token = token
        origin = urlsplit(token_origin)
        self._token_origin = (origin.scheme, origin.netloc)  # nothing else ever sees the token
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
                self._wait(_TransientError(_reason(error)), attempt, url)
            except ValueError as error:  # of http.client and urllib: addresses and headers that break their grammar
                raise NetworkError(f"{urlsplit(url).netloc} is no address, or its answer is malformed: {error}") from None
        raise AssertionError("unreachable: the last try raises")

    def _wait(self, error: _TransientError, attempt: int, url: str) -> None:
        host = urlsplit(url).netloc
        if error.wait is not None and error.wait > _LONGEST_WAIT:
            raise NetworkError(
                f"{host} asks to wait {error.wait:.0f} s before the next request ({error})", hint="try again later"
            ) from None
        if attempt == _TRIES - 1:
            hint = "check the network, or set HF_HUB_OFFLINE=1 to use what is in the cache"
            raise NetworkError(f"{host} failed {_TRIES} times, the last time with: {error}", hint=hint) from None
        delay = _BACK_OFF * 2**attempt * random.uniform(0.75, 1.25) if error.wait is None else error.wait
        time.sleep(delay)

    def _once(self, method: str, url: str, limit: int, byte_range: tuple[int, int] | None) -> Response:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NetworkError(f"redirected to '{url}', which is no web address")
        connection = self._connection(parts)
        try:
            connection.request(method, _target(parts), headers=self._headers(parts, byte_range))
            answer = connection.getresponse()
            response = Response(url, answer.status, answer.headers, self._body(answer, limit), None)
        except BaseException:
            connection.close()
            raise
        self._keep(parts, connection, reusable=answer.isclosed() and not answer.will_close)
        if response.status in _RETRIED:
            raise _TransientError(f"status {response.status}", wait=_retry_after(response.headers))
        return response

    def _body(self, answer: http.client.HTTPResponse, limit: int) -> bytes:
        """The body, cut at `limit` bytes. Raises on a body shorter than announced, and past the deadline."""
        body = bytearray()
        deadline = time.monotonic() + _DEADLINE
        while len(body) < limit:
            part = answer.read1(min(_CHUNK, limit - len(body)))
            if not part:
                break
            body += part
            if time.monotonic() > deadline:
                raise _TransientError(f"no whole answer within {_DEADLINE:.0f} s")
        if answer.length == 0:
            answer.read()  # ends the answer, so that its connection can be kept
        with self._lock:
            self.requests += 1
            self.bytes_read += len(body)
        announced = "" if limit == 0 else answer.headers.get("Content-Length", "")
        if announced.isdecimal() and len(body) < min(int(announced), limit):
            raise _TransientError(f"the answer broke off after {len(body):,} of {int(announced):,} bytes")
        return bytes(body)

    def _headers(self, parts: SplitResult, byte_range: tuple[int, int] | None) -> dict[str, str]:
        headers = {"User-Agent": "mlload", "Accept-Encoding": "identity"}
        if byte_range is not None:
            headers["Range"] = f"bytes={byte_range[0]}-{byte_range[1]}"
        if self._token is not None and (parts.scheme, parts.netloc) == self._token_origin:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        with self._lock:
            idle = self._idle.get((parts.scheme, parts.netloc))
            if idle:
                return idle.pop()
        return _connect(parts)

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


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _connect(parts: SplitResult) -> http.client.HTTPConnection:
    proxy = _proxy(parts)
    host, port = (proxy.hostname, proxy.port) if proxy else (parts.hostname, parts.port)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None
        connection = http.client.HTTPSConnection(host or "", port, timeout=_TIMEOUT, context=ssl.create_default_context(cafile=bundle))
    else:
        connection = http.client.HTTPConnection(host or "", port, timeout=_TIMEOUT)
    if proxy:
        connection.set_tunnel(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    return connection


def _proxy(parts: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for this host."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    address = proxies.get(parts.scheme) or proxies.get("all")
    if not address or proxy_bypass(parts.hostname or ""):
        return None
    return urlsplit(address if "://" in address else f"http://{address}")


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


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT:.0f} s"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError):
        return "the connection was closed"
    return str(error) or type(error).__name__
