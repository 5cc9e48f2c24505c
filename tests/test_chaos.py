"""A stream on which faults are injected says of each what it did, and loses nothing in silence."""

from __future__ import annotations

import ssl
from pathlib import Path

import anyio
import pytest
import tapeloom
import tapeloom_chaos
import tapeloom_simulator as simulator
import trustme
from tapeloom import FeedSpec, Network, Stack, Trade


@pytest.mark.parametrize("transport", ["", "picows"], ids=["core", "picows"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_stream_goes_through_a_proxy(
    secure: bool, transport: str, tmp_path: Path, anyio_backend: str
) -> None:
    if transport and anyio_backend == "trio":
        pytest.skip("it works on asyncio alone")
    context, root = None, None
    if secure:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        root = str(tmp_path / "root.pem")
        authority.cert_pem.write_to_path(root)
    async with (
        simulator.serve("binance", symbols=["BTC/USDT"], rate=200, tls=context) as sim,
        tapeloom_chaos.relay() as relay,
    ):
        feed = FeedSpec("binance", ("BTC/USDT",), ("trades", "book"), stages=("books",))
        stack = Stack(
            feeds=(feed,),
            venues={"binance": sim.settings},
            network=Network(proxy=relay.url, ca=root, transport=transport),
        )
        synced = traded = False
        async with tapeloom.open(stack) as stream:
            with anyio.fail_after(20):
                async for event in stream:
                    traded = traded or type(event) is Trade
                    synced = synced or getattr(event, "state", "") == "synced"
                    if traded and synced:
                        break

    assert relay.counters["connections"] >= 2  # the stream, and a snapshot of the book
