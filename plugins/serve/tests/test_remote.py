"""`tapeloom.connect`: the stream of a server, with the same interface, on both event loops."""

from __future__ import annotations

import json
from functools import partial

import anyio
import pytest
import tapeloom
from anyio.to_thread import run_sync
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Gap, Reject, Secret, Stack, Status, Trade, decode, encode
from tapeloom.errors import ConfigError, FeedError
from tapeloom.harness import compose_feed
from tapeloom.plugin import Cursor

pytestmark = pytest.mark.anyio
TOKEN = "an-obvious-fake-token"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def connected(consumer):
    """Wait until the stream is connected."""
    async for event in consumer:
        if type(event) is Status and event.state == "connected":
            return


async def take(consumer, count):
    """Return the next events that are no statuses."""
    found = []
    with anyio.fail_after(20):
        while len(found) < count:
            event = await anext(consumer)
            if type(event) is not Status:
                found.append(event)
    return found


async def clients_of(served, selection):
    """Wait until the server has a client with a selection."""
    with anyio.fail_after(20):  # the hub is in another thread
        while not any(  # noqa: ASYNC110
            client.selection.to_message() == selection for client in served.hub.clients
        ):
            await anyio.sleep(0.01)


async def test_all_events_arrive_as_they_are(served, make_trade):
    reject = Reject("venue", "BTC/USDT", 5, 5, "price", "0", make_trade(3))
    gap = Gap("venue", "BTC/USDT", 5, 5, 1, 5, "sequence", 3, "open", "trades", 1, 5)
    events = [make_trade(1), gap, reject, make_trade(2, venue="other")]
    async with tapeloom.connect(f"ws://{served.address}/stream") as stream:
        consumer = stream.consume()
        await connected(consumer)
        await clients_of(served, {})
        await run_sync(served.publish, *events)

        assert await take(consumer, 4) == events


async def test_a_stream_of_a_part_is_a_part(served, make_trade):
    stream = tapeloom.connect(
        f"ws://{served.address}/stream", symbols=["A/USD"], types=["trade"], venues=["venue"]
    )
    async with stream:
        trades = stream.of(Trade)
        await clients_of(served, {"symbols": ["A/USD"], "types": ["trade"], "venues": ["venue"]})
        await run_sync(
            served.publish,
            make_trade(1, "A/USD"),
            make_trade(2, "B/USD"),
            make_trade(3, "A/USD", "other"),
        )
        await stream.add("B/USD")
        await clients_of(
            served, {"symbols": ["A/USD", "B/USD"], "types": ["trade"], "venues": ["venue"]}
        )
        await run_sync(served.publish, make_trade(4, "B/USD"))

        assert await take(trades, 2) == [make_trade(1, "A/USD"), make_trade(4, "B/USD")]


async def test_after_the_death_of_the_server_there_is_a_gap(serve, make_trade):
    first = await run_sync(serve)
    port = int(first.address.split(":")[1])
    async with tapeloom.connect(f"ws://{first.address}/stream") as stream:
        consumer = stream.consume()
        await clients_of(first, {})
        await run_sync(first.publish, make_trade(1))
        before = await take(consumer, 1)
        await run_sync(first.stop)
        second = await run_sync(partial(serve, port=port))
        await clients_of(second, {})
        await run_sync(second.publish, make_trade(4), make_trade(5))
        gap, *after = await take(consumer, 3)

    assert before + after == [make_trade(1), make_trade(4), make_trade(5)]
    assert (gap.cause, gap.after_id, gap.before_id, gap.missing) == ("disconnect", 1, 4, 2)


async def test_a_token_opens_the_stream_and_a_wrong_one_ends_the_feed(serve, make_trade):
    served = await run_sync(partial(serve, token=Secret(TOKEN)))
    url = f"ws://{served.address}/stream"
    async with tapeloom.connect(url, token=Secret(TOKEN)) as stream:
        await connected(stream.consume())
    async with tapeloom.connect(url, token=Secret(TOKEN.upper())) as stream:
        with pytest.raises(FeedError, match="HTTP 401") as caught:
            async for _ in stream:
                pass

    assert TOKEN.upper() not in str(caught.value)


async def test_a_parameter_that_the_server_refuses_ends_the_feed_with_its_words(serve):
    served = await run_sync(partial(serve, queue_size=10))
    async with tapeloom.connect(f"ws://{served.address}/stream", queue_size=11) as stream:
        with pytest.raises(FeedError, match="expected a number from 1 to 10"):
            async for _ in stream:
                pass


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1/", "ws:///x", "ws://127.0.0.1/stream?token=x", "ws://a:b@c/"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="expected an address"):
        tapeloom.connect(url)


def remote():
    tables = {"url": "ws://127.0.0.1:1/stream"}
    stack = Stack(feeds=(tapeloom.FeedSpec("remote"),), venues={"remote": tables})
    return compose_feed(stack, seed=None).source


@pytest.fixture(scope="module")
def source():
    return remote()


@given(
    lines=st.lists(
        st.text()
        | st.sampled_from(["{}", '{"type":"stream.', '{"type":"stream.subscribed"}', "[]", "1"])
        | st.sampled_from(['{"type":"stream.subscribed","snapshot":-1}', '{"type":"nothing"}'])
    )
)
@settings(deadline=None)
def test_lines_that_are_no_events_become_rejects(source, lines):
    found = source._read_message("\n".join(lines))

    assert {type(event) for event in found} <= {Reject}
    assert all(decode(encode(event)) == event for event in found)


def test_an_error_of_the_server_is_raised():
    with pytest.raises(FeedError, match="of no use"):
        remote()._read_message(
            json.dumps({"type": "stream.error", "error": "of no use"}).replace(" ", "", 1)
        )


def test_after_a_restart_what_was_missed_since_the_stored_cursor_is_a_gap(make_trade):
    first, second = remote(), remote()
    first._read_message(encode(make_trade(1)))
    cursor = first._cursor([make_trade(1)])
    second.resume(cursor)

    gap, trade = second._read_message(encode(make_trade(5)))

    assert second._unknown_loss() == []
    assert isinstance(cursor, Cursor)
    assert (gap.cause, gap.missing) == ("restart", 3)
    assert trade == make_trade(5)
    assert second._cursor([trade]).number > cursor.number


def test_a_cursor_that_cannot_be_read_is_a_gap_of_everything():
    source = remote()
    source.resume(Cursor("remote", "ws://127.0.0.1:1/stream", 1, 5, "broken"))

    (gap,) = source._unknown_loss()

    assert (gap.since, gap.cause, gap.symbol, gap.channel) == (5, "restart", "", "")
    assert source._unknown_loss() == []
