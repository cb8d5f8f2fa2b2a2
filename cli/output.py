"""What all commands share: the answer on stdout, words on stderr, errors as one line and an exit code."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from ..loader.errors import MlloadError
from ..loader.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_BOUNDLESS = 1_000_000  # columns, where stdout is no terminal: nothing is cut or folded there
_PLAINER = str.maketrans({"█": "#", "…": "..."})  # of our own characters, for encodings that lack them
_LINES_AT_ONCE = 1_000
_PATIENCE = 1.5  # seconds without a word
_TRAILING_SPACE = re.compile(r" +$", re.MULTILINE)


def run_guarded(run: Callable[[], object]) -> NoReturn:
    """Run the command and end the process with its exit code: an MlloadError's own, 130 on SIGINT, 143 on SIGTERM."""
    received: list[int] = []

    def end(number: int, _frame: object) -> NoReturn:
        received.append(number)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        run()
        code = 0
    except MlloadError as error:
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(f"error: {error}\n")
        code = error.exit_code
    except Exception:
        if not received:
            raise
        code = 128 + received[0]  # Python makes another error of an exit in the midst of a class's making (__set_name__)
    sys.exit(code)


def print_json(answer: Mapping[str, object]) -> None:
    """The answer as one JSON object on stdout, in ASCII: no name in it can move a terminal's cursor or turn text round."""
    _write(json.dumps(_finite(answer), indent=2, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    """`value` with infinities and NaN, which configs may hold and JSON may not, as strings."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_tables(parts: Iterable[RenderableType]) -> None:
    """The answer as text: coloured on a terminal (unless NO_COLOR), plain and as wide as it is elsewhere. A str is a line as it stands."""
    console = _console()
    lines: list[str] = []
    for part in parts:
        lines.append(f"{part}\n" if isinstance(part, str) else _rendered(console, part))
        if len(lines) >= _LINES_AT_ONCE:
            _write("".join(lines))
            lines.clear()
    _write("".join(lines))


def terminal_width() -> int | None:
    """Columns of the terminal, None where stdout is none."""
    return _console().width if sys.stdout.isatty() else None


def note(text: str) -> None:
    """A line for a person, beside the answer."""
    sys.stderr.write(f"{printable(text, limit=1_000)}\n")


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say on stderr of a terminal what is waited for, once that takes a while; nothing of it stays."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Timer

    said: list[int] = []

    def say() -> None:
        said.append(sys.stderr.write(f"{printable(text, limit=60)} ..."))
        sys.stderr.flush()

    timer = Timer(_PATIENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if said:
            sys.stderr.write(f"\r{' ' * said[0]}\r")


def _rendered(console: Console, part: RenderableType) -> str:
    with console.capture() as captured:
        console.print(part)
    text = captured.get()
    return text if console.is_terminal else _TRAILING_SPACE.sub("", text)


def _write(text: str) -> None:
    """Write to stdout whatever its encoding; end quietly if the reader has gone."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError:
        data = text.translate(_PLAINER).encode(encoding, "backslashreplace")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        # Flushing at exit must not try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise MlloadError(f"the answer can't be written: {error.strerror}") from None


def _console() -> Console:
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else _BOUNDLESS, markup=False, highlight=False, emoji=False, soft_wrap=False)
