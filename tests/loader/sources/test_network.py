"""Networks as they are: servers that drip, certificates, proxies, names that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hub_faults as faults
import pytest
from conftest import Outcome
from hub_faults import Fault
from hub_proxy import proxy
from hub_server import HubServer, hub

Ask = Callable[..., Outcome]

DRIPPING: dict[str, tuple[Fault, str]] = {
    "head": (faults.drip_head(0.05, times=None), "no whole head of an answer within 1 s"),
    "body": (faults.drip(1, 0.05, times=None), "bytes in 1 s"),
    "silence": (faults.stall(30, times=None), "no answer within 1 s"),
}


@pytest.mark.parametrize("case", DRIPPING)
def test_server_that_drips_is_given_up(ask: Ask, server: HubServer, case: str) -> None:
    fault, message = DRIPPING[case]
    server.faults += [fault]
    outcome = ask(HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert outcome.code == 3
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_slow_body_that_goes_on_coming_is_waited_for(ask: Ask, server: HubServer, llama: Path) -> None:
    (llama / "config.json").write_bytes((llama / "config.json").read_bytes() + b" " * 12_000)
    server.add("org/llama", llama)
    server.faults += [faults.drip(1000, 0.2, path="*config.json", times=1)]
    outcome = ask(HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert outcome.code == 0, outcome.err
    assert [record.fault for record in server.log if record.file == "config.json" and record.status == 200] == ["drip"]


def test_name_that_nobody_knows_is_asked_for_twice(ask: Ask) -> None:
    err = ask("xlmr2", HF_ENDPOINT="http://nowhere.invalid").err
    message = "error: no folder, registered or cached model is called 'xlmr2', and the hub can't be asked: nowhere.invalid failed 2 times"
    assert err.startswith(message)
    assert "its name is not known" in err
    assert err.endswith("did you mean 'xlmr'?\n")


@pytest.fixture
def secure(llama: Path, certificate: Path) -> Iterator[HubServer]:
    """The same hub behind TLS."""
    with hub(certificate=certificate) as server:
        server.add("org/llama", llama)
        yield server


def test_certificates_of_the_environment_are_trusted(ask: Ask, secure: HubServer, certificate: Path) -> None:
    assert ask(HF_ENDPOINT=secure.endpoint, REQUESTS_CA_BUNDLE=str(certificate)).code == 0


def test_unknown_certificate_is_refused_at_once(ask: Ask, secure: HubServer) -> None:
    err = ask(HF_ENDPOINT=secure.endpoint).err
    assert f"the certificate of {secure.endpoint.removeprefix('https://')} is not trusted: self-signed certificate" in err
    assert "failed" not in err


def test_certificates_that_are_not_there_are_named(ask: Ask, secure: HubServer) -> None:
    err = ask(HF_ENDPOINT=secure.endpoint, REQUESTS_CA_BUNDLE="/nowhere.pem").err
    assert "the certificates in /nowhere.pem can't be read: No such file or directory; correct REQUESTS_CA_BUNDLE" in err


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_http_goes_through_the_proxy_with_its_password(ask: Ask, server: HubServer, variable: str) -> None:
    with proxy("me:p@ss") as through:
        outcome = ask(**{variable: f"http://me:p%40ss@{through.address}"})
    assert outcome.code == 0, outcome.err
    assert all(f" {server.endpoint}/" in line or f" {server.cdn_endpoint}/" in line for line in through.asked)
    assert len(through.asked) == server.requests


def test_https_goes_through_a_tunnel(ask: Ask, secure: HubServer, certificate: Path) -> None:
    with proxy("me:secret") as through:
        env = {"HTTPS_PROXY": f"http://me:secret@{through.address}", "REQUESTS_CA_BUNDLE": str(certificate)}
        assert ask(HF_ENDPOINT=secure.endpoint, **env).code == 0
    assert {line.split()[0] for line in through.asked} == {"CONNECT"}
    assert not [record for record in secure.log if record.had_token]


@pytest.mark.parametrize("exception", ["127.0.0.1", "*", "localhost, 127.0.0.1"])
def test_no_proxy_is_honoured(ask: Ask, exception: str) -> None:
    assert ask(HTTP_PROXY="http://127.0.0.1:9", NO_PROXY=exception).code == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_wants_a_password_says_so_at_once(ask: Ask, server: HubServer, secure: HubServer, scheme: str) -> None:
    endpoint = server.endpoint if scheme == "http" else secure.endpoint
    with proxy("me:secret") as through:
        err = ask(HF_ENDPOINT=endpoint, **{f"{scheme.upper()}_PROXY": f"http://me:wrong@{through.address}"}).err
    assert f"the proxy refuses to connect to {endpoint.partition('//')[2]}: status 407; check {scheme.upper()}_PROXY" in err
    assert "wrong" not in err


@pytest.mark.parametrize("address", ["socks5://me:secret@127.0.0.1:9", "socks5h://127.0.0.1:9", "https://127.0.0.1:9"])
def test_other_proxies_are_refused(ask: Ask, address: str) -> None:
    err = ask(ALL_PROXY=address).err
    assert f"the proxy in the environment is a {address.partition(':')[0]}:// one, which mlload does not support" in err
    assert "secret" not in err
    assert err.count("\n") == 1
