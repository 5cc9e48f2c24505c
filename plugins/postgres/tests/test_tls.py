"""A server behind an end point that speaks TLS: PostgreSQL from PyPI is built without it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import pq
from tapeloom.errors import SinkRefused
from tapeloom.events import Status
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_postgres import PostgresSink, Settings
from tapeloom_testing.services import TlsEndPoint

trustme = pytest.importorskip("trustme")
pytestmark = pytest.mark.skipif(
    pq.version() < 170000, reason="TLS without a request needs libpq 17"
)


@pytest.fixture
def port(server, tmp_path: Path) -> Iterator[int]:
    """The port of an end point in front of the server; ``root.pem`` is its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "root.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["postgresql"])
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with TlsEndPoint(server.port, context) as end_point:
        yield end_point.port


def dsn(port: int, root: Path) -> str:
    options = f"sslmode=verify-full&sslnegotiation=direct&sslrootcert={root}"
    return f"postgresql://postgres@127.0.0.1:{port}/postgres?{options}"


def test_events_are_stored_over_tls(port: int, read, schema: str, tmp_path: Path) -> None:
    settings = Settings(dsn=dsn(port, tmp_path / "root.pem"), schema=schema)
    assert PostgresSink(settings).check()
    sink = PostgresSink(settings)
    sink.open(SinkRun("postgres", 1))
    sink.write(SinkBatch(1, 1, [Status("acme", "", 1, 1, "notice", "text")]))
    sink.close()

    assert [row["detail"] for row in read(schema)] == ["text"]


def test_a_certificate_that_is_not_trusted_is_named(port: int, schema: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(SinkRefused, match=r"certificate verify failed.*Check sslmode, sslrootcert"):
        PostgresSink(Settings(dsn=dsn(port, other), schema=schema)).check()
