"""What accelerate and hf-mem say that models take: both ask a hub, which a server on this machine stands in for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}  # accelerate's are binary
_ROW = re.compile(r"(float32|float16|int8|int4)\s*│\s*[\d.]+ \w+\s*│\s*([\d.]+) (B|KB|MB|GB)")
_DTYPES = {"float32": "float32", "bfloat16": "float16", "float16": "float16", "nf4": "int4", "hqq": "int4", "int8": "int8"}


@dataclass(frozen=True)
class Peers:
    """Bytes of one model: accelerate's by dtype; hf-mem's of the weights as stored, and of the cache for a token."""

    by_dtype: Mapping[str, int]
    stored: int
    cache_per_token: float

    def accelerate(self, dtype: str, method: str | None) -> int:
        """Of the model in that precision."""
        return self.by_dtype[_DTYPES[method or dtype]]

    def hf_mem(self, context: int) -> int:
        """Of the model as it is stored, whatever it is loaded in."""
        return int(self.stored + self.cache_per_token * context)


def peers_of(folders: Mapping[str, Path]) -> dict[str, Peers]:
    """Both asked for each model."""
    with tempfile.TemporaryDirectory() as scratch:
        repos = [word for name, folder in folders.items() for word in ("--repo", f"org/{name}={folder}")]
        command = [
            sys.executable,
            str(HERE.parent / "hub_server.py"),
            *repos,
            "--port-file",
            f"{scratch}/port",
            "--log-file",
            f"{scratch}/log",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            env = os.environ | {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_HOME": f"{scratch}/hf", "HF_HUB_OFFLINE": "0"}
            try:
                return {name: Peers(_accelerate(name, env), *_hf_mem(name, env)) for name in folders}
            finally:
                server.send_signal(signal.SIGTERM)


def _accelerate(name: str, env: Mapping[str, str]) -> dict[str, int]:
    command = [str(BIN / "accelerate"), "estimate-memory", f"org/{name}", "--library_name", "transformers"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return {dtype: int(float(size) * _UNITS[unit]) for dtype, size, unit in _ROW.findall(done.stdout)}


def _hf_mem(name: str, env: Mapping[str, str]) -> tuple[int, float]:
    """Weights, and cache for a token where it counts one."""
    tokens = 1024
    command = [sys.executable, str(HERE / "hf_mem_at.py"), "--model-id", f"org/{name}", "--json-output", "--experimental"]
    done = subprocess.run([*command, "--max-model-len", str(tokens)], env=env, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    return int(told["memory"]), float(told.get("kv_cache") or 0) / tokens
