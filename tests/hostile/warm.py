"""A process with the command loaded, that forks for every request: starting Python anew would be most of a case's time.

A request is a line of JSON on stdin: `argv`, `folder` to run in, `environment`, and the files that get `stdout` and `stderr`. The answer
is a line of JSON: exit code, seconds, seconds of processor time, peak memory in bytes. The peak is the child's own: it counts what its
parent held when it was forked, so that pytest, with torch loaded, can't be that parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from typing import Any, NoReturn

from mlload.cli import app, head_start, inspect_tables, main, tensor_tables
from mlload.loader import inspection

_LOADED = (app, head_start, inspect_tables, tensor_tables, inspection)
_SECONDS = 30  # after which a child is killed
_UNIT = 1 if sys.platform == "darwin" else 1024


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _run(request)
        _, status, usage = os.wait4(child, 0)
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - started
        answer = {"code": code, "seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * _UNIT}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(request: dict[str, Any]) -> NoReturn:
    """What `python -m mlload` would do, in this process."""
    for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
        os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT), number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["mlload", *request["argv"]]
    signal.alarm(_SECONDS)
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001  (the interpreter would print it and exit with 1)
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve()
