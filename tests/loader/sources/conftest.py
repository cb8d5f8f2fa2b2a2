"""A hub with one small model on it, and `mlload inspect` of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome
from hub_server import HubServer, hub

REPO = "org/llama"


@pytest.fixture
def server(llama: Path) -> Iterator[HubServer]:
    (llama / "README.md").write_text("---\nlicense: mit\n---\n")
    with hub() as server:
        server.add(REPO, llama)
        yield server


@pytest.fixture
def ask(server: HubServer, run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """`mlload inspect` of a repository on the server, without a cache."""

    def start(reference: str = REPO, *arguments: str, **env: str) -> Outcome:
        return run("inspect", reference, "--json", *arguments, env={"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", **env})

    return start


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by nobody else."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", "-", "-out", "-"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path
