"""The guarantees about parsing: recorded frames of the venue, whole, corrupted and in batches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from tapeloom.events import Bar, Book, Event, Quote, Reject, Ticker, Trade
from tapeloom.harness import ComposedFeed

from .composed import Reader, cut
from .declared import ContractViolation
from .proving import first_difference

__all__ = ["batches", "deterministic", "exact", "poison", "understood", "unknown"]

MakePlan = Callable[[], ComposedFeed]

#: Frames per batch; 0: a single batch.
_SIZES = (1, 7, 64, 0)
#: The most good frames between which garbage is inserted; more take too long.
_MAX_GOOD_FRAMES = 400
#: A number in the text of a frame.
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
#: Levels of nesting in a frame that overflows a recursive parser.
_DEPTH = 20_000


def _read(plan: ComposedFeed, frames: Sequence[bytes], size: int) -> list[Event]:
    """Return the events of *frames*, parsed in batches of *size*."""
    reader = Reader(plan)
    return [event for batch in cut(frames, size) for event in reader.read(batch)]


def deterministic(make: MakePlan, frames: Sequence[bytes]) -> None:
    """Check that parsing the same frames again gives the same events."""
    once, again = _read(make(), frames, 64), _read(make(), frames, 64)
    _same(once, again, "read a second time")


def batches(make: MakePlan, frames: Sequence[bytes]) -> None:
    """Check that the size of the batches does not change the events."""
    once = _read(make(), frames, 1)
    for size in _SIZES[1:]:
        _same(once, _read(make(), frames, size), f"in batches of {size or len(frames)}")


def _same(expected: Sequence[Event], got: Sequence[Event], description: str) -> None:
    if list(expected) == list(got):
        return
    index = first_difference(expected, got)
    raise ContractViolation(
        f"{description}, the frames give {len(got)} events instead of {len(expected)}. They differ from index {index}"
        f" on: {expected[index : index + 1]!r} became {got[index : index + 1]!r}. A parser may depend on the frames"
        " only, not on their batches or the time."
    )


def understood(plan: ComposedFeed, frames: Sequence[bytes], garbage: Sequence[str]) -> None:
    """Check that every recorded frame is parsed, except those that contain a text of *garbage*."""
    for event in _read(plan, frames, 64):
        unread = type(event) is Reject and event.rule in ("unreadable_frame", "parser_error")
        if unread and not any(part in event.evidence for part in garbage):  # type: ignore[union-attr]
            raise ContractViolation(f"a recorded frame cannot be parsed: {event!r}")
    counters = plan.feed.counters
    if counters["unrequested"]:
        raise ContractViolation(
            f"{counters['unrequested']} recorded frames belong to no subscription."
        )


# ----------------------------------------------------------------------------------------- garbage


def _corrupted(frame: bytes) -> Iterator[bytes]:
    """Yield *frame* truncated, with invalid UTF-8, and with wrong types."""
    yield frame[: len(frame) * 2 // 3]
    yield frame.replace(b":", b":\xff\xfe", 1)
    try:
        yield json.dumps(_wrong_types(json.loads(frame))).encode()
    except ValueError:
        return


def _wrong_types(value: Any) -> Any:
    """Return JSON of the same shape in which each leaf has a wrong type."""
    if isinstance(value, dict):
        return {key: _wrong_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_wrong_types(item) for item in value]
    return {"wrong": [value]}


def _garbage_frames(good: Sequence[bytes]) -> list[bytes]:
    """Return frames that no parser understands, some of them corrupted copies of *good*."""
    samples = dict.fromkeys((good[0], good[len(good) // 2], good[-1], max(good, key=len)))
    return [
        b"",
        b"upstream connect error or disconnect/reset before headers",
        b"<html><body>502</body></html>",
        b"\xff\xfe\xfa",
        b"[" * _DEPTH,
        b'{"a":' * _DEPTH,
        *(corrupted for frame in samples for corrupted in _corrupted(frame)),
    ]


def poison(make: MakePlan, frames: Sequence[bytes]) -> None:
    """Check that garbage between good frames is rejected or counted and loses none of them."""
    good = frames[:_MAX_GOOD_FRAMES]
    expected = _read(make(), good, 1)
    garbage_frames = _garbage_frames(good)
    for bad in garbage_frames:
        _check_accounted(make(), bad, "a frame of garbage")
    mixed: list[bytes] = []
    for index, frame in enumerate(good):
        mixed.append(frame)
        if index % 3 == 0:
            mixed.append(garbage_frames[index // 3 % len(garbage_frames)])
    for size in (1, 64):
        try:
            got = [event for event in _read(make(), mixed, size) if type(event) is not Reject]
        except Exception as error:
            raise ContractViolation(
                f"garbage between good frames makes the parser raise {error!r}."
            ) from error
        clean = [event for event in expected if type(event) is not Reject]
        _same(clean, got, f"with garbage between them, in batches of {size}")


def unknown(make: MakePlan, frames: Sequence[bytes], more: Sequence[str]) -> None:
    """Check that messages of an unknown kind or symbol are counted and give no event."""
    for text in ('{"contract":"unknown"}', '[{"contract":"unknown"}]'):
        _check_accounted(make(), text.encode(), "a message of an unknown kind")
    for text in more:
        _check_unrequested(make(), text.encode())
    plan = make()
    natives = [native.encode() for native in plan.feed.listing.unified]
    reader = Reader(make())
    data = [frame for frame in frames if reader.read([frame])]
    for native in natives:
        for old, new in ((native, b"ZZQ9X"), (native.lower(), b"zzq9x")):
            data = [frame.replace(old, new) for frame in data]
    foreign = [frame for frame in data if b"zzq9x" in frame.lower()]
    for frame in foreign[:: max(1, len(foreign) // 20)]:
        _check_accounted(make(), frame, "a message of a symbol without a subscription")


def _check_unrequested(plan: ComposedFeed, frame: bytes) -> None:
    """Check that a message that the venue sends and nobody asked for is only counted."""
    if events := Reader(plan).read([frame]):
        raise ContractViolation(
            f"a message of `unknown` must give no event, but gave {events[0]!r}. Return Unrequested"
            " from `decode_reply`: such a message is no error."
        )
    if not plan.feed.counters["unrequested"]:
        raise ContractViolation(
            f"a message of `unknown` is not counted as unrequested: {frame[:120]!r}. Return"
            ' Unrequested from `decode_reply`, or count it in feed.counters["unrequested"].'
        )


def _check_accounted(plan: ComposedFeed, frame: bytes, description: str) -> None:
    """Check that *frame* gives a Reject, a status, a reply or a counter, and no other event."""
    before = sum(plan.feed.counters.values())
    reader = Reader(plan)
    try:
        events = reader.read([frame])
    except Exception as error:
        raise ContractViolation(
            f"{description} makes the parser raise {error!r}: {frame[:120]!r}"
        ) from error
    if strange := [event for event in events if event.type not in ("reject", "status")]:
        raise ContractViolation(
            f"{description} must give no event, but gave {strange[0]!r}: {frame[:120]!r}"
        )
    if not events and not reader.replies and sum(plan.feed.counters.values()) == before:
        raise ContractViolation(
            f"{description} is neither reported nor counted: {frame[:120]!r}. Pass it to `frames.on_control`,"
            " or count it in `feed.counters`."
        )


# ----------------------------------------------------------------------------------------- numbers


def _numbers(event: Event) -> Iterable[Decimal | str]:
    """Return the numbers of an event that the venue sent."""
    if type(event) is Trade:
        return event.price, event.size
    if type(event) is Quote:
        sides = (event.bid, event.bid_size, event.ask, event.ask_size)
        return [number for number in sides if number is not None]
    if type(event) is Bar:
        return event.open, event.high, event.low, event.close, event.volume
    if type(event) is Ticker:
        numbers = (event.last, event.open, event.high, event.low, event.volume)
        return [number for number in numbers if number is not None]
    if type(event) is Book:
        levels = (*event.raw_bids, *event.raw_asks)
        return [number for level in levels for number in level]
    return ()


def exact(plan: ComposedFeed, frames: Sequence[bytes]) -> None:
    """Check that every number of an event stands, digit for digit, in a frame read so far."""
    reader, seen = Reader(plan), set[str]()
    for frame in frames:
        seen.update(map(bytes.decode, _NUMBER.findall(frame)))
        for event in reader.read([frame]):
            for number in _numbers(event):
                if not isinstance(number, Decimal | str):
                    raise ContractViolation(
                        f"{number!r} is not a Decimal made from the text of the venue: {event!r}"
                    )
                # The zero volume of a bar without trades is not in a frame.
                if str(number) not in seen and Decimal(number):
                    raise ContractViolation(
                        f"{str(number)!r} is in no frame of the venue; keep the digits unchanged:"
                        f" {event!r} from {frame[:200]!r}"
                    )
