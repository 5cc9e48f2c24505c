"""`FlightRecorder`: frames from before an incident are saved in a bundle."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import Event, FeedSpec, FlightSpec, Gap, Registry, Reject, Stack, Trade
from tapeloom._tape.compression import read_whole
from tapeloom._tape.flight_recorder import FlightRecorder
from tapeloom._tape.reader import RecordedAnswer, RecordedFrame, Tape
from tapeloom.plugin import Endpoint, Feed, Request
from tapeloom_testing import FakeWire, VirtualClock, WireEnd

Replayed = Callable[..., Awaitable[list[Event]]]
Serve = Callable[[WireEnd, Endpoint], Awaitable[None]]


def coin(n: int) -> str:
    return json.dumps({"s": "BTCUSD", "t": n, "p": "1.50", "q": "2", "i": n})


async def agree(end: WireEnd) -> None:
    end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))


def stack(folder: Path | str, **settings: Any) -> Stack:
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"])
    return Stack(
        feeds=(spec,),
        venues={"acme": {"poisonous": True}},
        flight=FlightSpec(str(folder), **settings),
    )


async def stream_for(seconds: float, given: Stack, registry: Registry, serve: Serve) -> list[Event]:
    """Return the events of *seconds* of virtual time."""
    events: list[Event] = []
    async with VirtualClock().running() as clock, anyio.create_task_group() as tasks:
        dial = FakeWire(serve).dial
        async with tapeloom.open(
            given, registry=registry, clock=clock, dial=dial, seed=1
        ) as stream:

            async def stop() -> None:
                await clock.sleep(seconds)
                stream.stop()

            tasks.start_soon(stop)
            events += [event async for event in stream]
    return events


def bundles(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.zst"))


def head(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_whole(bundle, 1 << 24).splitlines()[0])
    return found


def breaking(frames: list[str]) -> Serve:
    """Return a venue that sends *frames*, and closes the connection at each "end"."""
    left = list(frames)

    async def serve(end: WireEnd, endpoint: Endpoint) -> None:
        await agree(end)
        while left:
            end.push(left.pop(0))
            if left and left[0] == "end":
                left.pop(0)
                end.close(1006)
                return
            await anyio.lowlevel.checkpoint()
        await anyio.sleep_forever()

    return serve


async def test_a_gap_saves_a_bundle_that_can_be_replayed(
    registry: Registry, tmp_path: Path, replayed: Replayed
) -> None:
    serve = breaking([coin(1), coin(2), "end", coin(3), coin(4)])
    live = await stream_for(20, stack(tmp_path), registry, serve)
    (bundle,) = bundles(tmp_path)
    again = await replayed(bundle, registry=registry)

    assert [type(event) for event in live if type(event) in (Gap, Trade)] == [
        Trade, Trade, Gap, Trade, Trade,
    ]  # fmt: skip
    assert [event for event in again if type(event) in (Gap, Trade)] == [
        event for event in live if type(event) in (Gap, Trade)
    ]
    assert head(bundle)["why"] == "gaps"
    assert bundle.name.startswith("acme-2023")


async def test_an_unreadable_frame_is_saved_with_its_error(
    registry: Registry, tmp_path: Path, replayed: Replayed
) -> None:
    serve = breaking([coin(1), '{"s": "BTCUSD", "t": "poison"}', "\x00no json", coin(2)])
    live = await stream_for(20, stack(tmp_path), registry, serve)
    (bundle,) = bundles(tmp_path)
    bad = (tmp_path / "acme-bad.jsonl").read_text().splitlines()
    frames = [json.loads(line) for line in bad[1:]]

    assert [event.id for event in live if type(event) is Trade] == [1, 2]
    assert [event.rule for event in live if type(event) is Reject] == [
        "parser_error",
        "unreadable_frame",
    ]
    assert [frame["frame"] for frame in frames] == ['{"s": "BTCUSD", "t": "poison"}', "\x00no json"]
    assert "Error" in frames[0]["error"]
    assert head(bundle)["why"] == "unreadable_frames"
    assert [type(event) for event in await replayed(tmp_path / "acme-bad.jsonl", registry=registry)
            if type(event) is Reject] == [Reject, Reject]  # fmt: skip


async def test_an_incident_just_before_the_end_is_saved(registry: Registry, tmp_path: Path) -> None:
    await stream_for(0.5, stack(tmp_path), registry, breaking([coin(1), "\x00"]))

    assert [head(bundle)["why"] for bundle in bundles(tmp_path)] == ["unreadable_frames"]


async def test_ten_rejects_between_two_checks_are_an_incident_and_nine_are_not(
    tmp_path: Path,
) -> None:
    for count, expected in ((9, []), (10, ["rejects"])):
        async with VirtualClock().running() as clock, anyio.create_task_group() as tasks:
            feed = Feed("f", "acme", clock=clock)
            folder = tmp_path / str(count)
            flight = FlightRecorder(feed, FlightSpec(str(folder)), 1000)
            tasks.start_soon(flight.run)
            await clock.sleep(1.5)
            feed.counters["reject.price"] += count
            await clock.sleep(5)
            tasks.cancel_scope.cancel()

        assert [head(bundle)["why"] for bundle in bundles(folder)] == expected


async def test_old_bundles_are_deleted_when_a_venue_keeps_failing(
    registry: Registry, tmp_path: Path
) -> None:
    serve = breaking([step for n in range(400) for step in (coin(n), "end")])
    await stream_for(3600, stack(tmp_path, seconds=5.0, keep=3), registry, serve)

    assert 1 <= len(bundles(tmp_path)) <= 3


async def test_an_unwritable_folder_loses_no_event(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    serve = breaking([coin(1), "\x00", coin(2)])
    live = await stream_for(10, stack(tmp_path / "file"), registry, serve)

    assert [event.id for event in live if type(event) is Trade] == [1, 2]


async def test_without_a_folder_a_bundle_is_written_only_on_request(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dial = FakeWire(breaking([coin(1), "\x00", coin(2)])).dial
    async with tapeloom.open(stack(""), registry=registry, dial=dial) as stream:
        async for trade in stream.of(Trade):
            if trade.id == 2:
                break
        assert [path async for path in anyio.Path(tmp_path).iterdir()] == []
        (path,) = await stream.dump(tmp_path / "asked")
    frames = [record.frame for record in Tape(path) if isinstance(record, RecordedFrame)]

    assert frames[1:] == [coin(1).encode(), b"\x00", coin(2).encode()]


async def test_memory_is_bounded_and_the_oldest_frames_are_dropped_first(tmp_path: Path) -> None:
    clock = VirtualClock()
    feed = Feed("f", "acme", clock=clock)
    flight = FlightRecorder(feed, FlightSpec(), 10_000)
    for n in range(5_000):
        payloads = [b"%d" % n, b"x" * (n % 50)]
        flight.frames(1, clock.time_ns(), payloads, sum(map(len, payloads)))
        flight.answer(clock.time_ns(), Request(url="https://acme.invalid"), b"y" * (n % 9_000))
    held = [payload for read in flight._ring for payload in read[3]]
    records = list(Tape(await flight.save(tmp_path, "test")))

    assert sum(map(len, held)) <= 10_000
    assert all(len(payload) <= 5_000 for payload in held)
    assert isinstance(records[-1], RecordedFrame | RecordedAnswer)
    assert [record.frame for record in records if isinstance(record, RecordedFrame)][-2] == b"4999"


async def test_frames_older_than_the_configured_seconds_are_not_in_the_bundle(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    feed = Feed("f", "acme", clock=clock)
    flight = FlightRecorder(feed, FlightSpec(seconds=10), 10_000)
    for n in range(20):
        flight.frames(1, clock.time_ns(), [b"%d" % n], 2)
        clock.advance(1)
    frames = [
        r.frame for r in Tape(await flight.save(tmp_path, "x")) if isinstance(r, RecordedFrame)
    ]

    assert frames == [b"%d" % n for n in range(10, 20)]
