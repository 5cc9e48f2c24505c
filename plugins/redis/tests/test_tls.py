"""A server behind an end point that speaks TLS: Valkey from PyPI ends when it is told to."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tapeloom.errors import SinkRefused
from tapeloom_redis import RedisSink, Settings
from tapeloom_testing.services import TlsEndPoint

trustme = pytest.importorskip("trustme")


@pytest.fixture
def address(server, tmp_path: Path) -> Iterator[str]:
    """The address of an end point in front of the server; ``root.pem`` is its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "root.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with TlsEndPoint(server.port, context) as end_point:
        yield f"rediss://127.0.0.1:{end_point.port}/0"


def test_events_are_stored_over_tls(address, tmp_path: Path, market, write_all, stored) -> None:
    settings = Settings(url=address, ca=str(tmp_path / "root.pem"))
    assert RedisSink(settings).check()
    events = market(20)
    write_all(RedisSink(settings), events)

    assert stored() == events


def test_a_certificate_that_is_not_trusted_is_named(address) -> None:
    with pytest.raises(SinkRefused, match="Set ca"):
        RedisSink(Settings(url=address)).check()
