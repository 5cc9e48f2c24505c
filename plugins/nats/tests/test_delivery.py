"""Each event is stored once, whatever is lost: acknowledgements, connections, servers, messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_nats.messages import shard_of
from tapeloom_testing.contract.sinks.child import Task
from tapeloom_testing.contract.sinks.events import sink_events
from tapeloom_testing.contract.sinks.processes import running_processes
from tapeloom_testing.services import NatsCluster, NatsDialogue, NatsServer, TcpProxy, nats_subject

#: One subject, and several: then a batch is several messages.
SHARDS = [1, 5]


@pytest.fixture
def proxy(server: NatsServer) -> Iterator[TcpProxy]:
    with TcpProxy(server.host, server.port, NatsDialogue) as running:
        yield running


def through(proxy: TcpProxy) -> str:
    return f"nats://{proxy.host}:{proxy.port}"


@pytest.mark.parametrize("shards", SHARDS)
def test_no_acknowledgement_that_is_lost_repeats_an_event(
    bench: Any, proxy: TcpProxy, shards: int
) -> None:
    """Each acknowledgement in turn, of the messages that open the sink and of those with events."""
    events = sink_events(60)
    lost = 0
    while True:
        lost += 1
        name = f"{bench.name}_{lost}"
        case = type(bench)(bench.url, name, bench.folder)
        proxy.drop_answers_after(nats_subject(f"{name}."), nth=lost)
        eaten = proxy.eaten
        sink = case.sink(servers=through(proxy), shards=shards)
        case.write(sink, events)
        case.assert_has(events)
        if proxy.eaten == eaten:
            break

    assert lost > (5 if shards == 1 else 14)


@pytest.mark.parametrize("shards", SHARDS)
def test_every_thirteenth_acknowledgement_may_be_lost(
    bench: Any, proxy: TcpProxy, shards: int
) -> None:
    events = sink_events(400)
    count = 0

    def is_thirteenth(subject: bytes) -> bool:
        nonlocal count
        is_ours = subject.startswith(bench.name.encode())
        count += is_ours
        return is_ours and count % 13 == 12

    proxy.drop_answers_after(is_thirteenth, every=True)
    counters = bench.write(bench.sink(servers=through(proxy), shards=shards), events, sizes=(4,))

    bench.assert_has(events)
    assert proxy.eaten > 5
    assert counters["sink_retries"] == proxy.eaten


def test_a_lost_acknowledgement_of_the_positions_repeats_nothing(
    bench: Any, proxy: TcpProxy
) -> None:
    events = sink_events(100)
    proxy.drop_answers_after(nats_subject("$KV."), nth=2)
    sink = bench.sink(servers=through(proxy))

    bench.write(sink, events)
    again = bench.sink()
    resume = again.open(SinkRun("sink", 1))
    again.close()

    assert proxy.eaten == 1
    assert resume.last == 100
    bench.assert_has(events)


def test_what_was_sent_before_the_sink_was_opened_again_is_not_stored_later(
    bench: Any, proxy: TcpProxy
) -> None:
    """The network holds a batch back until after it has been written again."""
    events = sink_events(40)
    slow = bench.sink(servers=through(proxy), timeout="200ms")
    slow.open(SinkRun("sink", 1))
    proxy.stall()
    with pytest.raises(SinkUnavailable, match=r"did not answer within 0\.2 s"):
        slow.write(SinkBatch(1, 1, events))
    fast = bench.sink()

    bench.write(fast, events)
    proxy.heal()
    slow.close()

    bench.assert_has(events)


def test_the_process_that_opened_the_sink_last_writes_and_the_other_one_is_refused(
    bench: Any,
) -> None:
    events = sink_events(30)
    first, second = bench.sink(), bench.sink()
    first.open(SinkRun("sink", 1))
    first.write(SinkBatch(1, 1, events[:10]))
    second.open(SinkRun("sink", 1))

    with pytest.raises(SinkRefused, match="another process writes"):
        first.write(SinkBatch(1, 11, events[10:20]))
    first.close()
    with pytest.raises(SinkRefused, match="another process writes"):
        first.open(SinkRun("sink", 1))
    first.close()
    second.write(SinkBatch(1, 11, events[10:]))
    second.close()

    bench.assert_has(events)


def test_a_batch_that_only_some_shards_stored_is_completed_with_other_batches(bench: Any) -> None:
    """The server refuses the largest of several messages, and the rest is cut anew."""
    events = sink_events(90)
    sink = bench.sink(shards=5)
    sink.open(SinkRun("sink", 7))
    sink.write(SinkBatch(7, 1, events[:20]))
    asyncio.run(limit_messages(bench, 70_000))
    large = {'["contract", "BTC/USDT", "trades"]': "x" * 100_000}
    with pytest.raises(SinkUnavailable, match="message size exceeds maximum"):
        sink.write(SinkBatch(7, 21, events[20:80], large))
    sink.close()
    stored = {item.number for item in bench.read()}
    asyncio.run(limit_messages(bench, -1))

    bench.write(bench.sink(shards=5), events, epoch=7, sizes=(33, 8))

    assert 20 < len(stored) < 80
    bench.assert_has(events)


async def limit_messages(bench: Any, size: int) -> None:
    client = await nats.connect(bench.url)
    context = client.jetstream()
    config = (await context.stream_info(bench.name)).config
    await context.update_stream(config, max_msg_size=size)
    await client.close()


@pytest.mark.parametrize("shards", SHARDS)
def test_a_body_of_more_than_a_message_is_sent_in_parts_and_lost_parts_are_sent_again(
    bench: Any, proxy: TcpProxy, shards: int
) -> None:
    events = sink_events(12)
    large = {f'["contract", "BTC/USDT", "trades{n}"]': chr(97 + n) * 900_000 for n in range(3)}
    sink = bench.sink(servers=through(proxy), shards=shards)
    sink.open(SinkRun("sink", 1))
    first_parts = len({shard_of(event.venue, event.symbol, shards) for event in events})
    proxy.drop_answers_after(nats_subject(f"{bench.name}."), nth=first_parts + 1)
    with pytest.raises(SinkUnavailable):
        sink.write(SinkBatch(1, 1, events, large))
    sink.close()
    resume = sink.open(SinkRun("sink", 1))
    assert resume.positions == {}
    sink.write(SinkBatch(1, 1, events, large))
    sink.close()

    again = bench.sink(shards=shards)
    resume = again.open(SinkRun("sink", 2))
    again.close()

    assert proxy.eaten == 1
    assert resume.positions == large
    bench.assert_has(events)


@pytest.mark.slow
def test_a_killed_server_loses_and_repeats_nothing(tmp_path: Any, bench: Any) -> None:
    """`kill -9` ten times while events are written."""
    events = sink_events(3000)
    with NatsServer() as server:
        case = type(bench)(server.url, "killed", tmp_path)
        sink = Killing(case.sink(shards=3, timeout="1s"), server, every=40)
        case.write(sink, events, sizes=(3, 9, 1, 14))

        case.assert_has(events)
        assert sink.kills >= 10


@pytest.mark.slow
def test_killed_processes_that_write_several_shards_lose_and_repeat_nothing(
    bench: Any, tmp_path: Path
) -> None:
    """`kill -9` at random moments; with one shard the contract of sinks does it."""
    kills = 0
    with running_processes(tmp_path / "errors") as processes:
        for seed in range(1, 20):
            folder = tmp_path / str(seed)
            folder.mkdir()
            case = type(bench)(bench.url, f"{bench.name}_{seed}", folder)
            settings = {"servers": case.url, "stream": case.name, "prefix": case.name, "shards": 5}
            task = Task(
                use="nats", module="", table=settings, types=(), backend="asyncio",
                folder=str(folder), count=150, sizes=(5, 1, 32), seed=3,
            )  # fmt: skip
            kills += processes.kill_at_random(task, seed=seed)
            case.assert_has(sink_events(150, seed=3))
            if kills >= 2:
                break

    assert kills >= 2


class Killing:
    """A sink whose server is killed during every n-th write."""

    guarantee = "exactly_once"

    def __init__(self, sink: Any, server: NatsServer, every: int) -> None:
        self._sink, self._server, self._every = sink, server, every
        self._writes = self.kills = 0
        self.open, self.close = sink.open, sink.close

    def write(self, batch: SinkBatch) -> None:
        self._writes += 1
        if self._writes % self._every:
            self._sink.write(batch)
            return
        self.kills += 1
        self._sink.write(batch)  # acknowledged, and nobody hears of it
        self._server.restart()
        raise SinkUnavailable("the server was killed.")


@pytest.mark.slow
def test_a_killed_leader_of_three_servers_loses_and_repeats_nothing(
    tmp_path: Any, bench: Any
) -> None:
    events = sink_events(600)
    with NatsCluster() as cluster:
        case = type(bench)(",".join(cluster.urls), "three", tmp_path)
        settings = {"servers": cluster.urls, "shards": 3, "replicas": 3, "timeout": "1s"}
        sink = case.sink(**settings)
        case.write(sink, events[:300])
        leader = cluster.server(asyncio.run(leader_of(cluster.urls[0], "three")))
        leader.kill()
        alive = [server.url for server in cluster.servers if server is not leader]
        case.write(case.sink(**settings), events)

        type(bench)(alive[0], "three", tmp_path).assert_has(events)


async def leader_of(url: str, stream: str) -> str:
    client = await nats.connect(url)
    try:
        info = await client.jetstream().stream_info(stream)
        assert info.cluster is not None
        assert info.cluster.leader is not None
        return info.cluster.leader
    finally:
        await client.close()


@pytest.mark.parametrize("shards", SHARDS)
def test_subjects_whose_messages_the_stream_has_deleted_are_written_on(
    bench: Any, shards: int
) -> None:
    events = sink_events(60)
    sink = bench.sink(shards=shards)
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, events[:30]))
    asyncio.run(purge(bench.url, bench.name))

    sink.write(SinkBatch(1, 31, events[30:]))
    sink.close()

    assert [item.number for item in bench.read()] != []
    assert sorted(item.number for item in bench.read()) == list(range(31, 61))


async def purge(url: str, stream: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().purge_stream(stream)
    await client.close()


def test_positions_survive_the_messages_that_had_them(bench: Any) -> None:
    sink = bench.sink()
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, sink_events(5), {"a": "1", "b": "2"}))
    sink.write(SinkBatch(1, 6, sink_events(5), {"b": "3"}))
    sink.close()
    asyncio.run(purge(bench.url, bench.name))

    again = bench.sink()
    resume = again.open(SinkRun("sink", 2))
    again.close()

    assert (resume.last, resume.positions) == (0, {"a": "1", "b": "3"})


def test_positions_are_those_of_the_last_message_also_without_a_checkpoint(bench: Any) -> None:
    """As after `kill -9`: the sink is not closed."""
    sink = bench.sink()
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, sink_events(5), {"a": "1", "b": "2"}))
    sink.close()
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 6, sink_events(5), {"b": "3"}))

    again = bench.sink()
    resume = again.open(SinkRun("sink", 1))
    again.close()
    sink.close()

    assert (resume.last, resume.positions) == (10, {"a": "1", "b": "3"})


@pytest.mark.parametrize("shards", [1, 4])
def test_a_sink_that_is_opened_returns_the_events_after_its_checkpoint(
    bench: Any, shards: int
) -> None:
    events = sink_events(90)
    sink = bench.sink(shards=shards)
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, events[:30], {}, lambda: {"a": "1"}))
    sink.close()
    sink.open(SinkRun("sink", 1))
    for first in (30, 60):
        batch = SinkBatch(1, first + 1, events[first : first + 30], {}, lambda: {"a": "2"})
        sink.write(batch)

    again = bench.sink(shards=shards)  # as after `kill -9`
    resume = again.open(SinkRun("sink", 1))
    later = [event for stored in resume.events for event in stored]
    again.close()
    sink.close()

    def by_symbol(events: list[Any]) -> list[Any]:
        places = [(e.venue, e.symbol, e.type, e.channel, e.ts, e.recv) for e in events]
        return sorted(places, key=lambda place: place[:2])

    assert (resume.last, resume.positions) == (90, {"a": "1"})
    assert by_symbol(later) == by_symbol(events[30:])


def test_a_stream_that_was_deleted_begins_anew_and_keeps_the_positions(bench: Any) -> None:
    events = sink_events(20)
    sink = bench.sink()
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, events, {"a": "1"}))
    sink.close()
    asyncio.run(delete(bench.url, bench.name))

    resume = sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, events))
    sink.close()

    assert (resume.last, resume.positions) == (0, {"a": "1"})
    bench.assert_has(events)


async def delete(url: str, stream: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().delete_stream(stream)
    await client.close()


def test_a_tape_that_is_replayed_twice_is_stored_once_also_with_another_run_between(
    bench: Any,
) -> None:
    tape, live = sink_events(50), sink_events(30, seed=2)

    for epoch, events in ((5, tape), (6, live), (5, tape)):
        bench.write(bench.sink(shards=3), events, epoch=epoch)

    found = [(item.epoch, item.number) for item in bench.read()]
    assert sorted(found) == [*((5, n) for n in range(1, 51)), *((6, n) for n in range(1, 31))]


def test_a_sink_that_wrote_nothing_for_a_minute_connects_anew(bench: Any, proxy: TcpProxy) -> None:
    """The server has closed the connection, because between two writes nobody answers its pings."""
    now = 0.0
    events = sink_events(20)
    sink = bench.sink(servers=through(proxy))
    sink.sink._monotonic = lambda: now
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, events[:10]))
    proxy.cut()
    now = 61.0

    sink.write(SinkBatch(1, 11, events[10:]))
    sink.close()

    bench.assert_has(events)
    assert proxy.connections == 2
