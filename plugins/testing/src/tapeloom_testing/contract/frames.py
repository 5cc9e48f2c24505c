"""The venue's own frames, recorded in a run or by somebody else, through its parser in many ways."""

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

__all__ = ["batches", "deterministic", "exact", "poison", "understood", "unknown"]

MakePlan = Callable[[], ComposedFeed]

_SIZES = (1, 7, 64, 0)
_FEW = 400  # frames that are enough to put poison between
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DEEP = 20_000


def _read(plan: ComposedFeed, frames: Sequence[bytes], size: int) -> list[Event]:
    reader = Reader(plan)
    return [event for batch in cut(frames, size) for event in reader.read(batch)]


def deterministic(make: MakePlan, frames: Sequence[bytes]) -> None:
    """Hold that the same frames give the same events."""
    once, again = _read(make(), frames, 64), _read(make(), frames, 64)
    _same(once, again, "read a second time")


def batches(make: MakePlan, frames: Sequence[bytes]) -> None:
    """Hold that how frames are cut into batches makes no difference."""
    once = _read(make(), frames, 1)
    for size in _SIZES[1:]:
        _same(once, _read(make(), frames, size), f"in batches of {size or len(frames)}")


def _same(expected: Sequence[Event], got: Sequence[Event], how: str) -> None:
    if list(expected) == list(got):
        return
    at = next(
        (at for at, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]),
        min(len(expected), len(got)),
    )
    raise ContractViolation(
        f"{how}, the frames give other events: {len(expected)} became {len(got)}, first at {at}:"
        f" {expected[at : at + 1]!r} became {got[at : at + 1]!r}. A parser depends on frames alone,"
        " not on how they are cut, nor on the time."
    )


def understood(plan: ComposedFeed, frames: Sequence[bytes], garbage: Sequence[str]) -> None:
    """Hold that every frame is read, but for what is known to be garbage."""
    for event in _read(plan, frames, 64):
        unread = type(event) is Reject and event.rule in ("unreadable_frame", "parser_error")
        if unread and not any(part in event.evidence for part in garbage):  # type: ignore[union-attr]
            raise ContractViolation(f"a recorded frame is not understood: {event!r}")
    counters = plan.feed.counters
    if counters["unrequested"]:
        raise ContractViolation(
            f"{counters['unrequested']} recorded frames are of what nobody asked for."
        )


# ------------------------------------------------------------------------------------------ poison


def _spoiled(frame: bytes) -> Iterator[bytes]:
    """Yield what may become of a frame on its way."""
    yield frame[: len(frame) * 2 // 3]
    yield frame.replace(b":", b":\xff\xfe", 1)
    try:
        yield json.dumps(_twisted(json.loads(frame))).encode()
    except ValueError:
        return


def _twisted(value: Any) -> Any:
    """Return the same shape with a wrong type in each of its leaves."""
    if isinstance(value, dict):
        return {key: _twisted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_twisted(each) for each in value]
    return {"wrong": [value]}


def _poisons(good: Sequence[bytes]) -> list[bytes]:
    some = dict.fromkeys((good[0], good[len(good) // 2], good[-1], max(good, key=len)))
    return [
        b"",
        b"upstream connect error or disconnect/reset before headers",
        b"<html><body>502</body></html>",
        b"\xff\xfe\xfa",
        b"[" * _DEEP,
        b'{"a":' * _DEEP,
        *(each for frame in some for each in _spoiled(frame)),
    ]


def poison(make: MakePlan, frames: Sequence[bytes]) -> None:
    """Hold that garbage between good frames costs none of them and is accounted for."""
    good = frames[:_FEW]
    expected = _read(make(), good, 1)
    poisons = _poisons(good)
    for bad in poisons:
        _accounted(make(), bad, "a frame of garbage")
    mixed: list[bytes] = []
    for at, frame in enumerate(good):
        mixed.append(frame)
        if at % 3 == 0:
            mixed.append(poisons[at // 3 % len(poisons)])
    for size in (1, 64):
        try:
            got = [one for one in _read(make(), mixed, size) if type(one) is not Reject]
        except Exception as error:
            raise ContractViolation(
                f"garbage between good frames makes the parser raise {error!r}."
            ) from error
        clean = [one for one in expected if type(one) is not Reject]
        _same(clean, got, f"with garbage between them, in batches of {size}")


def unknown(make: MakePlan, frames: Sequence[bytes], more: Sequence[str]) -> None:
    """Hold that a message of an unknown kind or symbol becomes no event, and is counted."""
    for text in ('{"contract":"unknown"}', '[{"contract":"unknown"}]', *more):
        _accounted(make(), text.encode(), "a message of an unknown kind")
    plan = make()
    natives = [native.encode() for native in plan.feed.listing.unified]
    reader = Reader(make())
    data = [frame for frame in frames if reader.read([frame])]
    for native in natives:
        for old, new in ((native, b"ZZQ9X"), (native.lower(), b"zzq9x")):
            data = [frame.replace(old, new) for frame in data]
    foreign = [frame for frame in data if b"zzq9x" in frame.lower()]
    for frame in foreign[:: max(1, len(foreign) // 20)]:
        _accounted(make(), frame, "a message of a symbol that nobody asked for")


def _accounted(plan: ComposedFeed, frame: bytes, what: str) -> None:
    """Hold that one frame alone leaves a Reject or a counter that has gone up, and no event."""
    before = sum(plan.feed.counters.values())
    reader = Reader(plan)
    try:
        events = reader.read([frame])
    except Exception as error:
        raise ContractViolation(
            f"{what} makes the parser raise {error!r}: {frame[:120]!r}"
        ) from error
    if strange := [one for one in events if one.type not in ("reject", "status")]:
        raise ContractViolation(f"{what} became {strange[0]!r}: {frame[:120]!r}")
    if not events and not reader.replies and sum(plan.feed.counters.values()) == before:
        raise ContractViolation(
            f"{what} is gone without a trace: {frame[:120]!r}. Give it to `frames.on_control`, or count"
            " it in `feed.counters`."
        )


# ----------------------------------------------------------------------------------------- numbers


def _numbers(event: Event) -> Iterable[Decimal | str]:
    """Return the numbers of an event that are the venue's own."""
    if type(event) is Trade:
        return event.price, event.size
    if type(event) is Quote:
        return event.bid, event.bid_size, event.ask, event.ask_size
    if type(event) is Bar:
        return event.open, event.high, event.low, event.close, event.volume
    if type(event) is Ticker:
        some = (event.last, event.open, event.high, event.low, event.volume)
        return [number for number in some if number is not None]
    if type(event) is Book:
        levels = (*event.raw_bids, *event.raw_asks)
        return [number for level in levels for number in level]
    return ()


def exact(plan: ComposedFeed, frames: Sequence[bytes]) -> None:
    """Hold that the digits of every number stand in the frames that have come so far."""
    reader, seen = Reader(plan), set[str]()
    for frame in frames:
        seen.update(map(bytes.decode, _NUMBER.findall(frame)))
        for event in reader.read([frame]):
            for number in _numbers(event):
                if not isinstance(number, Decimal | str):
                    raise ContractViolation(
                        f"{number!r} is no Decimal made of the venue's text: {event!r}"
                    )
                # A bar without a trade has a volume that nobody wrote.
                if str(number) not in seen and Decimal(number):
                    raise ContractViolation(
                        f"the venue wrote no number {str(number)!r}; keep its digits as they are:"
                        f" {event!r} from {frame[:200]!r}"
                    )
