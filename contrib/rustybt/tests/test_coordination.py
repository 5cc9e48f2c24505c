"""StreamManager, RobustWebSocketAdapter and other helpers with adapters that fail."""

import asyncio

import anyio
import pytest
from tapeloom.errors import ConfigError, ConnectionFailed, ConnectionLost, Mistake, SymbolError
from tapeloom_rustybt import (
    RobustWebSocketAdapter,
    StreamEnded,
    StreamManager,
    batch_subscribe,
    graceful_stream,
)


class Scripted:
    """An adapter of somebody else's: each call fails with the next of its errors, if any."""

    def __init__(self, *connects, bars=(), subscribes=()):
        self.connects, self.bars, self.errors = list(connects), list(bars), list(subscribes)
        self.dialled, self.open, self.asked = 0, False, []

    async def connect(self):
        self.dialled += 1
        if self.connects and (error := self.connects.pop(0)):
            raise error
        self.open = True

    async def subscribe(self, symbols):
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.asked.append(symbols)

    async def stream(self):
        return self

    async def get(self):
        await anyio.lowlevel.checkpoint()
        if not self.bars:
            raise StreamEnded("over")
        bar = self.bars.pop(0)
        if isinstance(bar, Exception):
            raise bar
        return bar

    async def disconnect(self):
        self.open = False


REFUSED = ConnectionFailed("x", "refused")
LOST = ConnectionLost("x", "lost")


async def test_the_error_of_the_last_retry_is_raised():
    adapter = Scripted(*[REFUSED] * 9)

    with pytest.raises(ConnectionFailed):
        await RobustWebSocketAdapter(adapter, max_retries=3, first=0.001).connect_with_retry()
    assert adapter.dialled == 3


async def test_permanent_errors_are_raised_at_once():
    adapter = Scripted(ConfigError([Mistake("venue", "wrong")]))

    with pytest.raises(ConfigError):
        await RobustWebSocketAdapter(adapter).connect_with_retry()
    assert adapter.dialled == 1


async def test_the_delays_double_up_to_a_cap(monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    adapter = Scripted(*[REFUSED] * 6)
    await RobustWebSocketAdapter(adapter, max_retries=7, cap=10).connect_with_retry()

    assert waits == [1, 2, 4, 8, 10, 10]


async def test_a_queue_continues_after_failures_of_its_stream():
    adapter = Scripted(None, REFUSED, bars=[1, LOST, 2, 3])
    queue = await RobustWebSocketAdapter(adapter, first=0.001).stream_with_reconnect()

    assert [await queue.get() for _ in range(3)] == [1, 2, 3]
    assert adapter.dialled == 3
    with pytest.raises(StreamEnded):
        await queue.get()


async def test_a_get_that_times_out_does_not_restart_the_reconnection():
    adapter = Scripted(None, *[REFUSED] * 4, bars=[LOST, 1])
    robust = RobustWebSocketAdapter(adapter, max_retries=9, first=0.05, cap=0.1)
    queue = await robust.stream_with_reconnect()
    timeouts = 0
    with anyio.fail_after(10):
        while True:
            try:
                bar = await asyncio.wait_for(queue.get(), timeout=0.01)
                break
            except TimeoutError:
                timeouts += 1

    assert bar == 1
    assert adapter.dialled == 6


async def test_a_queue_raises_permanent_errors():
    adapter = Scripted(None, *[REFUSED] * 5, bars=[LOST])
    queue = await RobustWebSocketAdapter(adapter, first=0.001).stream_with_reconnect()

    with pytest.raises(ConnectionFailed):
        await queue.get()


async def test_a_stream_that_cannot_be_added_is_disconnected_and_removed():
    manager = StreamManager()
    adapter = Scripted(subscribes=[SymbolError("no such symbol")])

    with pytest.raises(SymbolError):
        await manager.add_stream("x", adapter, ["X/Y"])
    assert not adapter.open
    assert manager.adapters == {}


async def test_a_stream_name_is_unique():
    async with StreamManager() as manager:
        await manager.add_stream("x", first := Scripted(), ["X/Y"])
        with pytest.raises(ValueError, match="'x'"):
            await manager.add_stream("x", Scripted(), ["X/Y"])

    assert not first.open


async def test_a_stream_that_fails_to_close_does_not_keep_others_open():
    class Stuck(Scripted):
        async def disconnect(self):
            raise OSError("stuck")

    manager = StreamManager()
    await manager.add_stream("stuck", Stuck(), ["X/Y"])
    await manager.add_stream("other", other := Scripted(), ["X/Y"])

    with pytest.raises(OSError, match="stuck"):
        await manager.close_all()
    assert not other.open
    assert manager.adapters == {}


async def test_symbols_are_subscribed_in_batches_of_the_given_size():
    adapter = Scripted()
    await batch_subscribe(adapter, list("abcdefg"), batch_size=3)

    assert adapter.asked == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


async def test_graceful_stream_returns_at_the_end_of_the_stream():
    adapter, done = Scripted(bars=[1, 2]), []
    await graceful_stream(adapter, done.append, ["X/Y"])

    assert done == [1, 2]
    assert not adapter.open


async def test_an_error_of_the_processing_is_raised_unchanged():
    adapter = Scripted(bars=[1])

    def fail(bar):
        raise KeyError(bar)

    with pytest.raises(KeyError):
        await graceful_stream(adapter, fail)
    assert not adapter.open
