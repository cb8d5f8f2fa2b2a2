"""hf-mem's own command, with the hub's address replaced by HF_ENDPOINT: it knows no other, and benchmarks must not leave the machine."""

from __future__ import annotations

import os
import sys
from typing import Any

import httpx2
from hf_mem.cli import main

HUB = httpx2.URL(os.environ["HF_ENDPOINT"])
send = httpx2.AsyncClient.send


async def send_there(self: httpx2.AsyncClient, request: httpx2.Request, **options: Any) -> httpx2.Response:
    if request.url.host == "huggingface.co":
        request.url = request.url.copy_with(scheme=HUB.scheme, host=HUB.host, port=HUB.port)
        request.headers["Host"] = request.url.netloc.decode()
    return await send(self, request, **options)


httpx2.AsyncClient.send = send_there  # type: ignore[method-assign]  # what is measured is hf-mem, not where it looks
sys.exit(main())
