"""Streams, the newest events, and what is published."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

import pytest
import redis
from attrs import evolve
from tapeloom.events import BaseEvent, Book, Trade, decode, event_class
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_redis import RedisSink, Settings
from tapeloom_testing.services import RedisDialogue, TcpProxy, redis_command

EPOCH = 1_700_000_000_000_000_000


@pytest.fixture
def client(server):
    with redis.Redis(port=server.port, decode_responses=True) as found:
        yield found


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("{type}", lambda event: event.type),
        ("all", lambda event: "all"),
        (
            "{venue}/{symbol}/{channel}/{type}",
            lambda event: f"{event.venue}/{event.symbol}/{event.channel}/{event.type}",
        ),
    ],
)
def test_an_event_stands_in_the_stream_that_the_setting_names(
    stream, expected, server, client, market, write_all, stored
):
    events = market(200)
    write_all(RedisSink(Settings(url=server.url, prefix="p", stream=stream)), events)

    found = {
        key: [decode(fields["event"]) for _, fields in client.xrange(key)]
        for key in client.scan_iter("p:*", _type="stream")
    }
    assert set(found) == {f"p:{expected(event)}" for event in events}
    for key, inside in found.items():
        assert inside == [event for event in events if f"p:{expected(event)}" == key]


def test_the_id_of_an_entry_is_the_run_and_the_number_of_the_event(
    server, client, market, write_all
):
    events = market(40)
    write_all(RedisSink(Settings(url=server.url)), events)

    for key in client.scan_iter("tapeloom:*", _type="stream"):
        for entry, fields in client.xrange(key):
            epoch, number = map(int, entry.split("-"))
            assert epoch == EPOCH
            assert decode(fields["event"]) == events[number - 1]


def test_max_length_keeps_about_as_many_of_the_newest_events(server, client, market, write_all):
    trades = [event for event in market(9000) if type(event) is Trade]
    write_all(RedisSink(Settings(url=server.url, max_length=500)), trades, sizes=[100])
    kept = [decode(fields["event"]) for _, fields in client.xrange("tapeloom:trade")]

    assert 500 <= len(kept) < 700
    assert kept == trades[-len(kept) :]


def newest(events):
    """The newest event of each field, found by sorting."""
    found = {}
    for event in events:
        name = f"{event.venue} {event.symbol} {event.channel}"
        key = f"tapeloom:latest:{event.type}", name
        is_delta = type(event) is Book and event.kind == "delta"
        if not is_delta and (key not in found or event.ts >= found[key].ts):
            found[key] = event
    return found


def latest(client):
    return {
        (key, name): decode(line)
        for key in client.scan_iter("tapeloom:latest:*")
        for name, line in client.hgetall(key).items()
    }


def test_latest_keeps_the_newest_event_of_each_subscription_also_when_older_ones_follow(
    server, client, market, write_all
):
    events = market(500)
    write_all(RedisSink(Settings(url=server.url, latest=True)), events)

    assert latest(client) == newest(events)
    assert len(newest(events)) > 10


def test_latest_does_not_fall_back_after_a_restart_or_a_lost_answer(
    server, client, market, write_all
):
    events = market(200)
    older = [evolve(event, ts=event.ts - 60_000_000_000) for event in events[:20]]
    with TcpProxy(server.host, server.port, RedisDialogue) as proxy:
        proxy.drop_answers_after(redis_command("EVALSHA"), nth=3)
        sink = RedisSink(Settings(url=server.url_at(proxy.port), latest=True))
        write_all(sink, events, sizes=[30])
        write_all(sink, older, epoch=EPOCH + 1, sizes=[20])

    assert latest(client) == newest(events)


def test_each_event_is_published_once_also_if_the_answer_of_its_write_is_lost(
    server, client, market, write_all
):
    events = market(100)
    with client.pubsub() as subscriber:
        subscriber.psubscribe("tapeloom:*")
        assert subscriber.get_message(timeout=5)["type"] == "psubscribe"
        with TcpProxy(server.host, server.port, RedisDialogue) as proxy:
            proxy.drop_answers_after(redis_command("EVALSHA"), nth=4)
            sink = RedisSink(Settings(url=server.url_at(proxy.port), publish=True))
            write_all(sink, events, sizes=[10])
        messages = [subscriber.get_message(timeout=5) for _ in events]
        rest = subscriber.get_message(timeout=0.05)

    assert [decode(message["data"]) for message in messages] == events
    assert [message["channel"] for message in messages] == [f"tapeloom:{e.type}" for e in events]
    assert rest is None


def test_nothing_is_published_and_no_hash_of_newest_events_is_made_unless_asked_for(
    server, client, market, write_all
):
    with client.pubsub() as subscriber:
        subscriber.psubscribe("*")
        subscriber.get_message(timeout=5)
        write_all(RedisSink(Settings(url=server.url)), market(20))

        assert subscriber.get_message(timeout=0.05) is None
    assert latest(client) == {}


@pytest.mark.parametrize("text", ["\ud800 alone", "\x00", 'quote " and \\', "ünïcode 🎉"])
def test_any_text_is_stored_exactly_and_as_valid_utf_8(text, server, client):
    event = Trade("acme", "BTC/USDT", 1, 2, Decimal(1), Decimal(2), "buy", text)
    sink = RedisSink(Settings(url=server.url))
    sink.open(SinkRun("store", EPOCH))
    sink.write(SinkBatch(EPOCH, 1, [event]))
    sink.close()

    ((_, fields),) = client.xrange("tapeloom:trade")
    assert decode(fields["event"]) == event


@event_class
class Delta(BaseEvent):
    """An event of a plugin."""

    type: ClassVar[str] = "redis_test_delta"

    venue: str
    symbol: str
    ts: int
    recv: int
    amount: Decimal
    channel: str = "trades"


def test_an_event_class_of_a_plugin_is_stored_in_a_stream_of_its_own(
    server, client, write_all, stored
):
    events = [Delta("acme", "BTC/USDT", ts, ts, Decimal(ts)) for ts in range(1, 9)]
    write_all(RedisSink(Settings(url=server.url, latest=True)), events)

    assert stored("tapeloom:redis_test_delta") == events
    assert latest(client) == newest(events)
