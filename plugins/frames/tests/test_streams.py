"""Frames of live streams, the synchronous stream and `collect`, against a simulated venue."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import anyio
import pytest
import tapeloom
from anyio.from_thread import start_blocking_portal
from tapeloom import Bar, FeedSpec, Gap, QueueSpec, Quote, Stack, Status, Stream, Trade
from tapeloom.errors import FeedError, PluginNotFound, QueueOverflow
from tapeloom_columns import to_events
from tapeloom_frames import Frame, collect, frame, open_sync
from tapeloom_simulator import serve

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")
pytest.importorskip("tapeloom_quality")

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            portal.call(lambda: serve("binance", symbols=SYMBOLS, seed=7, rate=100, speed=10))
        ) as simulator,
    ):
        yield simulator.url


def stack(url: str, **changes: Any) -> Stack:
    feed = FeedSpec("binance", SYMBOLS, ["trades", "quotes"], stages=["bars"], max_attempts=1)
    stages, venues = {"bars": {"every": "1s"}}, {"binance": {"base_url": url}}
    return Stack(feeds=[feed], stages=stages, venues=venues, **changes)


@pytest.fixture
def dead(unused_port: int) -> Stack:
    """A stack whose venue cannot be reached."""
    return stack(f"http://127.0.0.1:{unused_port}")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def numbers(window: Frame, symbol: str) -> list[int]:
    found = [event.id for event in to_events(window.table()) if event.symbol == symbol]
    assert len(found) > 20
    return found


def assert_contiguous(window: Frame) -> None:
    for symbol in SYMBOLS:
        found = numbers(window, symbol)
        assert found == list(range(found[0], found[0] + len(found)))


# ------------------------------------------------------------------------------- in an async program


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_frame_has_every_trade_of_its_block(url: str, backend: str) -> None:
    async def main() -> tuple[Frame, list[Trade]]:
        seen: list[Trade] = []
        async with tapeloom.open(stack(url)) as stream, frame(stream, Trade) as trades:

            @stream.on(Trade)
            def see(event: Trade) -> None:
                seen.append(event)
                if len(seen) == 500:
                    stream.stop()

            await stream.run()
        return trades, seen

    trades, seen = anyio.run(main, backend=backend)

    assert_contiguous(trades)
    assert to_events(trades.table())[-len(seen) :] == seen  # also what was still in the queue


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_queued_at_the_end_of_the_block_is_added(url: str, backend: str) -> None:
    last = Trade("binance", "BTC/USDT", 1, 1, Decimal(1), Decimal(1), None, "last")

    async def main(waited: float) -> Frame:
        async with tapeloom.open(stack(url)) as stream, frame(stream, Trade, None) as trades:
            await anyio.sleep(waited)
            (queue,) = stream._queues
            queue.put_nowait([last])  # the task that fills the frame cannot run meanwhile
        return trades

    for waited in (0, 0.2):  # before the task has begun, and while it waits
        assert last in to_events(anyio.run(main, waited, backend=backend).table())


def test_the_error_of_the_stream_cancels_the_block(dead: Stack) -> None:
    async def main() -> None:
        async with tapeloom.open(dead) as stream, frame(stream, Trade):
            await anyio.sleep_forever()

    with pytest.raises(FeedError, match="connection"):
        anyio.run(main)


def test_an_error_of_the_block_is_raised_unchanged(url: str) -> None:
    async def main() -> None:
        async with tapeloom.open(stack(url)) as stream, frame(stream, Trade):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        anyio.run(main)


# --------------------------------------------------------------------------------- without `async`


def test_batches_come_in_plain_code(url: str) -> None:
    with open_sync(stack(url)) as stream:
        batches = stream.batches(Trade, size=25, within=5)
        trades = [trade for _ in range(8) for trade in next(batches)]

    window = Frame(Trade)
    window.add(trades)
    assert len(trades) == 200
    assert_contiguous(window)


def test_single_events_come_in_plain_code(url: str) -> None:
    with open_sync(stack(url)) as stream:
        quote = next(stream.of(Quote))
        first = next(iter(stream))

    assert type(quote) is Quote
    assert first.venue == "binance"


def test_a_frame_is_filled_while_plain_code_does_something_else(url: str) -> None:
    with open_sync(stack(url)) as stream:
        trades, bars = stream.frame(Trade), stream.frame(Bar)
        for batch in stream.batches(Bar):
            if len(bars) > 5 and batch:
                break
        during = len(trades)
    after = len(trades)

    assert 100 < during <= after
    assert_contiguous(trades)
    assert trades.gaps == []


def test_a_stopped_stream_ends_its_iterators_and_completes_its_frames(url: str) -> None:
    with open_sync(stack(url)) as stream:
        trades = stream.frame(Trade)
        seen = 0
        for batch in stream.batches(Trade):
            seen += len(batch)
            if seen > 100:
                stream.stop()
        stream.wait()
        assert len(trades) >= seen


def test_waiting_ends_after_its_time(url: str) -> None:
    with open_sync(stack(url)) as stream:
        bars = stream.frame(Bar)
        stream.wait("800ms")
        stream.wait(0.2)
        assert 4 <= len(bars) // len(SYMBOLS) <= 40  # ten bars a second


def test_symbols_are_dropped_and_added_in_plain_code(url: str) -> None:
    with open_sync(stack(url)) as stream:
        next(stream.of(Trade))
        stream.drop("ETH/USDT")
        dropped = [*stream.stream.plans[0].feed.symbols]
        stream.add("ETH/USDT")
        assert (dropped, [*stream.stream.plans[0].feed.symbols]) == (["BTC/USDT"], SYMBOLS)


@pytest.mark.parametrize("call", ["batches", "wait", "leave"])
def test_the_error_of_the_stream_is_raised_in_the_caller(dead: Stack, call: str) -> None:
    with pytest.raises(FeedError, match="connection"), open_sync(dead) as stream:
        stream.frame(Trade)
        if call == "batches":
            list(stream.batches(Trade))
        elif call == "wait":
            stream.wait()
        else:
            while stream.error is None:
                pass


def test_an_error_that_was_seen_is_not_raised_again(dead: Stack) -> None:
    with open_sync(dead) as stream, pytest.raises(FeedError, match="connection"):
        stream.wait()


def test_the_overflow_of_a_frame_is_raised_in_the_caller(url: str) -> None:
    async def burst(stream: Stream) -> None:
        (queue,) = stream._queues
        for _ in range(3):  # the task that fills the frame cannot run meanwhile
            queue.put_nowait([Trade("binance", "BTC/USDT", 1, 1, Decimal(1), Decimal(1))])

    tight = stack(url, queue=QueueSpec(size=1, policy="error"))
    with pytest.raises(QueueOverflow, match="frame of trade"), open_sync(tight) as stream:
        stream.frame(Trade)
        stream.run(burst)

    with open_sync(tight) as stream:
        stream.frame(Trade)
        stream.run(burst)
        with pytest.raises(QueueOverflow, match="frame of trade"):
            stream.wait(0.2)
        stream.wait(0.1)  # raised once


def test_ctrl_c_ends_a_waiting_call_and_the_stream(url: str) -> None:
    with pytest.raises(KeyboardInterrupt), open_sync(stack(url)) as stream:
        trades = stream.frame(Trade)
        Timer(0.5, partial(os.kill, os.getpid(), signal.SIGINT)).start()
        stream.wait()

    assert len(trades) > 0
    with pytest.raises(RuntimeError, match="the stream is closed"):
        stream.wait()


def test_a_stream_that_nobody_closes_does_not_keep_python_alive(url: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, tapeloom\n"
        "from tapeloom_frames import open_sync\n"
        "feed = dict(venue='binance', symbols=['BTC/USDT'], channels=['trades'])\n"
        "stack = dict(feed=[feed], venue=dict(binance=dict(base_url=sys.argv[1])))\n"
        "stream = open_sync(stack)\n"
        "print(next(stream.of(tapeloom.Trade)).symbol)\n"
    )
    done = subprocess.run(
        [sys.executable, script, url], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "BTC/USDT"), done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_of_a_stack_are_raised_at_once() -> None:
    with pytest.raises(PluginNotFound, match="Did you mean 'binance'"):
        open_sync(FeedSpec("binanze", ["BTC/USDT"], ["trades"]))


# ------------------------------------------------------------------------------------------- collect


def test_collect_returns_the_events_of_a_time_by_type(url: str) -> None:
    frames = collect(stack(url), "1s", types=[Trade, Bar, Gap])

    assert list(frames) == [Trade, Bar, Gap]
    assert_contiguous(frames[Trade])
    assert len(frames[Bar]) >= 4
    assert len(frames[Gap]) == 0


def test_collect_returns_all_types_by_default(url: str) -> None:
    assert set(collect(stack(url), "1s")) >= {Trade, Quote, Bar, Status}


def test_collect_ends_after_a_count(url: str) -> None:
    frames = collect(stack(url), count=123, types=[Trade])

    assert len(frames[Trade]) == 123


def test_collect_returns_all_of_a_replay(url: str, tmp_path: Path) -> None:
    recorded = collect(stack(url), "1s", types=[Trade], record=tmp_path)[Trade]
    replayed = collect(tapeloom.replay(tmp_path, stack(url)))

    assert ids(replayed[Trade])[: len(recorded)] == ids(recorded)
    assert len(replayed[Bar]) > 4


def ids(window: Frame) -> list[tuple[str, int]]:
    return [(event.symbol, event.id) for event in to_events(window.table())]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_collect_works_inside_a_running_loop(url: str, backend: str) -> None:
    async def cell() -> Frame:
        return collect(stack(url), count=100, types=[Trade])[Trade]

    assert len(anyio.run(cell, backend=backend)) == 100


def test_every_frame_of_collect_has_the_gaps(tmp_path: Path) -> None:
    tape = tmp_path / "day.ws.jsonl"
    with tape.open("w") as lines:
        for n in [*range(1, 6), *range(7, 12)]:
            ms = 1_700_000_000_000 + n * 400
            trade = {
                "e": "trade",
                "E": ms,
                "s": "BTCUSDT",
                "t": n,
                "p": "5",
                "q": "1",
                "T": ms,
                "m": False,
            }
            text = json.dumps(json.dumps({"stream": "btcusdt@trade", "data": trade}))
            lines.write(f'{{"ts": {ms / 1000}, "frame": {text}}}\n')
    feed = FeedSpec("binance", ["BTC/USDT"], ["trades"], market="spot", stages=["quality", "bars"])
    recording = tapeloom.replay(tape, Stack(feeds=[feed], stages={"bars": {"every": "1s"}}))
    frames = collect(recording, types=[Bar, Trade])

    assert [(gap.cause, gap.missing) for gap in frames[Trade].gaps] == [("sequence", 1)]
    assert frames[Bar].gaps == frames[Trade].gaps
    assert len(frames[Trade]) == 10


def test_collect_raises_the_error_of_the_stream(dead: Stack) -> None:
    with pytest.raises(FeedError, match="connection"):
        collect(dead)


def test_a_count_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        collect(stack(url), count=0)
