"""Each event is stored once, whatever is lost on the way: read back by an independent client."""

from __future__ import annotations

import itertools
import os
import random
import threading

import pytest
import redis
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.plugin import Resume, SinkBatch, SinkRun
from tapeloom_redis import RedisSink, Settings
from tapeloom_testing.services import RedisDialogue, TcpProxy, redis_command

EPOCH = 1_700_000_000_000_000_000


def test_all_types_of_events_arrive_once_and_unchanged(server, market, write_all, stored):
    events = market(500)
    write_all(RedisSink(Settings(url=server.url)), events)

    assert stored() == events


@pytest.mark.parametrize("nth", range(1, 12))
def test_a_write_whose_answer_is_lost_is_not_repeated(nth, server, market, write_all, stored):
    events = market(60)
    with TcpProxy(server.host, server.port, RedisDialogue) as proxy:
        proxy.drop_answers_after(redis_command("EVALSHA"), nth=nth)
        sink = RedisSink(Settings(url=server.url_at(proxy.port)))
        counters = write_all(sink, events, sizes=[5])

        assert proxy.eaten == 1
    assert counters["sink_retries"] == 1
    assert stored() == events


@pytest.mark.parametrize("command", ["INFO", "SCRIPT", "HGET", "HGETALL"])
def test_a_connection_that_is_lost_while_opening_is_opened_again(
    command, server, market, write_all, stored
):
    events = market(30)
    with TcpProxy(server.host, server.port, RedisDialogue) as proxy:
        proxy.drop_answers_after(redis_command(command))
        sink = RedisSink(Settings(url=server.url_at(proxy.port)))
        with pytest.raises(SinkUnavailable, match="cannot be reached"):
            sink.open(SinkRun("store", EPOCH))
        sink.close()
        write_all(sink, events)

        assert proxy.eaten == 1
    assert stored() == events


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("TAPELOOM_DURABILITY_RUNS", "10"))))
def test_a_server_that_is_killed_and_restarted_has_each_event_once(
    seed, server, market, write_all, stored
):
    rng = random.Random(seed)
    events = market(250, seed)
    kills = sorted(rng.sample(range(1, 35), 3))
    restarts = []

    def sizes():
        """The server is killed by a thread while the next batches are on their way."""
        for number in itertools.count(1):
            if number in kills:
                restarts.append(threading.Thread(target=server.restart))
                if len(restarts) > 1:
                    restarts[-2].join()
                restarts[-1].start()
            yield rng.randrange(1, 12)

    write_all(RedisSink(Settings(url=server.url)), events, sizes=sizes())
    for restart in restarts:
        restart.join()

    assert restarts
    got = stored()
    assert len(got) == len(events)
    assert got == events


def test_a_run_that_starts_again_continues_after_what_is_stored(server, market, write_all, stored):
    events = market(100)
    write_all(RedisSink(Settings(url=server.url)), events[:37], sizes=[10])
    write_all(RedisSink(Settings(url=server.url)), events, sizes=[9])

    assert stored() == events


def test_a_tape_that_is_replayed_twice_is_stored_once_also_after_another_one(
    server, market, write_all, stored
):
    first, second = market(80, seed=1), market(80, seed=2)
    for epoch, events in ((EPOCH, first), (EPOCH + 1, second), (EPOCH, first), (EPOCH + 1, second)):
        write_all(RedisSink(Settings(url=server.url)), events, epoch=epoch)

    assert stored() == [*first, *second]


def test_an_older_run_that_has_more_to_store_is_refused_and_stores_nothing(
    server, market, write_all, stored
):
    events = market(20)
    write_all(RedisSink(Settings(url=server.url)), events[:5])
    write_all(RedisSink(Settings(url=server.url)), events, epoch=EPOCH + 1)
    with pytest.raises(SinkRefused, match="Set another prefix for this sink"):
        write_all(RedisSink(Settings(url=server.url)), events)

    assert stored() == [*events[:5], *events]
    with redis.Redis(port=server.port) as client:
        assert client.hgetall("tapeloom:cursor:store") == {
            str(EPOCH).encode(): b"5",
            str(EPOCH + 1).encode(): b"20",
        }


def test_another_run_has_nothing_stored_but_the_newest_positions(server, market):
    sink = RedisSink(Settings(url=server.url))
    events = market(4)
    assert sink.open(SinkRun("store", EPOCH)) == Resume()
    sink.write(SinkBatch(EPOCH, 1, events[:2], {"a": "1", "b": "1"}))
    sink.write(SinkBatch(EPOCH, 3, events[2:], {"b": "2"}))
    sink.close()

    assert sink.open(SinkRun("store", EPOCH)) == Resume(4, {"a": "1", "b": "2"})
    sink.close()
    assert sink.open(SinkRun("store", EPOCH + 1)) == Resume(0, {"a": "1", "b": "2"})
    sink.close()
    assert sink.open(SinkRun("other", EPOCH)) == Resume()
    sink.close()


def test_a_process_that_was_replaced_stores_nothing_any_more(server, market, stored):
    """Its connection hung, and what it sent arrives after the new process has gone on."""
    events = market(6)
    old, new = (RedisSink(Settings(url=server.url)) for _ in range(2))
    for sink in (old, new):
        sink.open(SinkRun("store", EPOCH))
    new.write(SinkBatch(EPOCH, 1, events[:4]))
    with pytest.raises(SinkUnavailable, match=r"another process writes to .* as this sink"):
        old.write(SinkBatch(EPOCH, 1, events[:2]))
    with pytest.raises(SinkUnavailable, match="they are up to 4"):
        old.write(SinkBatch(EPOCH, 3, events[2:]))
    old.close()
    new.close()

    assert stored() == events[:4]


def test_a_batch_that_a_paused_server_executes_late_is_not_stored_twice(
    server, market, write_all, stored
):
    events = market(60)
    resumed = []

    def sizes():
        for number in itertools.count():
            if number == 4:
                server.pause()
                resumed.append(threading.Timer(0.5, server.resume))
                resumed[0].start()
            yield 5

    sink = RedisSink(Settings(url=server.url, timeout="100ms"))
    counters = write_all(sink, events, sizes=sizes())
    resumed[0].join()

    assert counters["sink_retries"] > 0
    assert stored() == events


def test_a_batch_that_is_too_large_is_halved_and_stored_once(
    server, market, write_all, stored, monkeypatch
):
    monkeypatch.setattr("tapeloom_redis._sink._MAX_BYTES", 1000)
    events = market(50)
    with TcpProxy(server.host, server.port, RedisDialogue) as proxy:
        proxy.drop_answers_after(redis_command("EVALSHA"), nth=7)
        counters = write_all(RedisSink(Settings(url=server.url_at(proxy.port))), events, sizes=[50])

        assert proxy.matched >= 10
    assert counters["sink_errors"] == 0
    assert stored() == events


def test_numbers_that_core_has_set_aside_leave_no_hole_that_stops_the_sink(server, market, stored):
    events = market(4)
    sink = RedisSink(Settings(url=server.url))
    sink.open(SinkRun("store", EPOCH))
    sink.write(SinkBatch(EPOCH, 1, events[:2]))
    sink.write(SinkBatch(EPOCH, 9, events[2:]))
    sink.close()

    assert stored() == events
    assert sink.open(SinkRun("store", EPOCH)).last == 10
    sink.close()
