"""A whole stack with the sink, on both event loops, and the command."""

from __future__ import annotations

import json
import threading

import anyio
import anyio.lowlevel
import pytest
import tapeloom
from tapeloom import Registry, SinkSpec, Trade, decode
from tapeloom.hooks import hookimpl
from tapeloom_serve.sink import RUNNING
from websockets.sync.client import connect


class Market:
    """A source that delivers trades in batches of ten, as soon as a client is connected."""

    backends = frozenset({"asyncio", "trio"})
    channels = frozenset({"trades"})
    resumes = True

    def __init__(self, trades):
        self.trades = trades

    async def run(self, deliver):
        while not RUNNING or not RUNNING[0].hub.clients:  # noqa: ASYNC110 - of another thread
            await anyio.sleep(0.005)
        for first in range(0, len(self.trades), 10):
            await deliver(self.trades[first : first + 10])
            await anyio.lowlevel.checkpoint()

    def symbols_changed(self):
        pass


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_gets_what_the_stream_has_on_either_loop(backend, make_trade):
    trades = [make_trade(n, venue="market") for n in range(1000)]

    class Plugin:
        @hookimpl
        def connect(self, feed):
            return Market(trades)

    registry = Registry()
    registry.register(Plugin(), "market")
    feed = {"venue": "market", "symbols": ["BTC/USDT"], "channels": ["trades"]}
    sink = SinkSpec("serve", table={"port": 0}, max_batch_delay=0.001)
    lines = []

    def read(url):
        with connect(f"{url}?type=trade") as client:
            assert json.loads(client.recv(10))["type"] == "stream.subscribed"
            for text in client:
                lines.extend(text.splitlines())

    async def run():
        stack = tapeloom.Stack(feeds=(tapeloom.FeedSpec(**feed),), sinks=(sink,))
        async with tapeloom.open(stack, registry=registry) as stream:
            reader = threading.Thread(target=read, args=(RUNNING[0].url,))
            reader.start()
            own = [trade async for trade in stream.of(Trade)]
        await anyio.to_thread.run_sync(reader.join)
        return own

    own = anyio.run(run, backend=backend)

    assert own == trades
    assert [decode(line) for line in lines] == trades
    assert RUNNING == []
    assert all(thread.name != "tapeloom-serve" for thread in threading.enumerate())
