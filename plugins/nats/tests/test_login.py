"""Sink and venue at a real server that asks for a login, over TLS with certificates made here."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import nkeys
import pytest
import tapeloom
import trustme
from tapeloom import Trade
from tapeloom.errors import ConnectionFailed, SinkRefused
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_nats import Settings
from tapeloom_nats.sink import NatsSink
from tapeloom_testing.services import NatsServer

from .test_source import trade

pytestmark = pytest.mark.anyio

Server = Mapping[str, object]  #: keys of the server's configuration
Client = Mapping[str, Any]  #: of the sink and of the venue
SECRETS = {"password", "token"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # nats-py runs on nothing else


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls(authority: trustme.CA, folder: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Return what the server and the clients need for TLS in which both have certificates."""
    paths = {}
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("server", "client"):
        issued = authority.issue_cert("127.0.0.1", common_name=name)
        for kind, pem in (("key", issued.private_key_pem), ("cert", issued.cert_chain_pems[0])):
            paths[name, kind] = str(folder / f"{name}.{kind}.pem")
            pem.write_to_path(paths[name, kind])
    server = {
        "cert_file": paths["server", "cert"], "key_file": paths["server", "key"],
        "ca_file": str(folder / "ca.pem"), "verify": True, "timeout": 5,
    }  # fmt: skip
    client = {
        "ca": str(folder / "ca.pem"), "certificate": paths["client", "cert"],
        "key": paths["client", "key"],
    }  # fmt: skip
    return {"tls": server}, client


# ----------------------------------------------------------------------------------- credentials


def pair(kind: int) -> tuple[nkeys.KeyPair, str, str]:
    """Return a key pair of NATS, its public key and its seed."""
    seed = nkeys.encode_seed(os.urandom(32), kind)
    keys = nkeys.from_seed(bytearray(seed))
    return keys, keys.public_key.decode(), bytes(seed).decode()


def signed(issuer: nkeys.KeyPair, subject: str, name: str, claims: Mapping[str, Any]) -> str:
    """Return a token of NATS about *subject*, as `nsc` makes it."""

    def part(value: Any) -> str:
        text = json.dumps(value, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    body: dict[str, Any] = {
        "iat": 1_700_000_000, "iss": issuer.public_key.decode(), "name": name, "sub": subject,
        "nats": {**claims, "version": 2},
    }  # fmt: skip
    digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(body)}"
    signature = base64.urlsafe_b64encode(issuer.sign(text.encode())).decode().rstrip("=")
    return f"{text}.{signature}"


def operator(folder: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Return the configuration of a server that trusts an operator, and a user's credentials."""
    limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1,
              "payload": -1, "wildcards": True}  # fmt: skip
    jetstream = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    (chief, chief_key, _) = pair(nkeys.PREFIX_BYTE_OPERATOR)
    (_, system_key, _) = pair(nkeys.PREFIX_BYTE_ACCOUNT)
    (account, account_key, _) = pair(nkeys.PREFIX_BYTE_ACCOUNT)
    (_, user_key, seed) = pair(nkeys.PREFIX_BYTE_USER)
    user = signed(
        account, user_key, "market", {"type": "user", "subs": -1, "data": -1, "payload": -1}
    )
    file = folder / "market.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    accounts = {
        key: signed(chief, key, key[:4], {"type": "account", "limits": {**limits, **more}})
        for key, more in ((system_key, {}), (account_key, jetstream))
    }
    server = {
        "operator": signed(
            chief, chief_key, "chief", {"type": "operator", "system_account": system_key}
        ),
        "system_account": system_key,
        "resolver": "MEMORY",
        "resolver_preload": accounts,
    }
    return server, {"credentials": str(file)}


# ------------------------------------------------------------------------------------------ tests

LOGINS: dict[str, tuple[Server, Client, Client]] = {
    "user and password": (
        {"authorization": {"user": "market", "password": "s3cret"}},
        {"user": "market", "password": "s3cret"},
        {"user": "market", "password": "wrong"},
    ),
    "token": ({"authorization": {"token": "t0ken"}}, {"token": "t0ken"}, {"token": "wrong"}),
}


@pytest.fixture(params=[*LOGINS, "credentials"])
def login(
    request: pytest.FixtureRequest, tmp_path: Path, authority: trustme.CA
) -> Iterator[tuple[NatsServer, Client, Client]]:
    """Yield a server with TLS, and settings with a right and a wrong login."""
    server_tls, client_tls = tls(authority, tmp_path)
    if request.param == "credentials":
        (tmp_path / "other").mkdir()
        server, right = operator(tmp_path)
        _, wrong = operator(tmp_path / "other")
    else:
        server, right, wrong = LOGINS[request.param]
    with NatsServer(settings={**server_tls, **server}) as running:
        servers = [f"tls://{running.host}:{running.port}"]
        yield (
            running,
            {"servers": servers, **client_tls, **right},
            {"servers": servers, **client_tls, **wrong},
        )


async def relayed(client: Client, count: int, folder: Path) -> list[Trade]:
    """Return the trades that the venue reads from the beginning of the stream."""
    settings = {**client, "start": "first"}
    for key in SECRETS & {*client}:  # a stack names them only
        (folder / key).write_text(client[key])
        settings[key] = {"file": str(folder / key)}
    stack = {"feed": [{"venue": "nats"}], "venue": {"nats": settings}}
    found: list[Trade] = []
    with anyio.fail_after(40):
        async with tapeloom.open(stack, seed=1) as stream:
            async for event in stream.of(Trade):
                found.append(event)
                if len(found) == count:
                    break
    return found


async def store(client: Client, count: int) -> None:
    """Publish trades with the sink."""
    secrets = {key: tapeloom.Secret(client[key]) for key in SECRETS & {*client}}
    sink = NatsSink(Settings(**{**client, **secrets}))
    try:
        await sink.open(SinkRun("nats", 1))
        await sink.write(SinkBatch(1, 1, [trade(n) for n in range(count)]))
    finally:
        await sink.close()


async def test_a_login_over_tls_is_enough_for_the_sink_and_the_venue(
    login: tuple[NatsServer, Client, Client], tmp_path: Path
) -> None:
    _, right, _ = login
    await store(right, 20)
    found = await relayed(right, 20, tmp_path)

    assert [event.id for event in found] == [*range(20)]


async def test_a_wrong_login_is_refused_by_name_and_not_tried_again(
    login: tuple[NatsServer, Client, Client], tmp_path: Path
) -> None:
    _, _, wrong = login
    with pytest.raises(SinkRefused, match="refused the login"):
        await store(wrong, 1)
    with pytest.raises(ConnectionFailed, match="refused the login") as raised:
        await relayed(wrong, 1, tmp_path)

    text = str(raised.value)
    assert not any(wrong[key] in text for key in SECRETS & {*wrong})


async def test_a_server_with_a_certificate_of_somebody_else_is_refused(
    login: tuple[NatsServer, Client, Client], tmp_path: Path
) -> None:
    _, right, _ = login
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    stranger = {**right, "ca": str(tmp_path / "other.pem")}
    with pytest.raises(SinkRefused, match="TLS connection"):
        await store(stranger, 1)
    with pytest.raises(ConnectionFailed, match="Check ca, certificate and key"):
        await relayed(stranger, 1, tmp_path)
