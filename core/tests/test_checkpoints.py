"""The positions of a sink with checkpoints are those of a sink that stores them with each batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import cycle

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom._stream.sinks.checkpoints import Checkpoints
from tapeloom._stream.sinks.positions import Latest, Positions, parse, texts
from tapeloom.events import Event, Gap, Quote, Trade
from tapeloom.plugin import Feed, TradeBatch
from tapeloom_testing.clock import VirtualClock

ONE = Decimal(1)
Step = tuple[str, str]  #: a symbol, and what happens to it
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["A/B", "C/D", "G/H"]),
        st.sampled_from(["trade", "trade", "quote", "gap", "fill", "endless"]),
    ),
    max_size=40,
)


def trade(symbol: str, number: int) -> Trade:
    """Return a trade; those of A/B and G/H have numbers as ids, those of other symbols texts."""
    trade_id = number if symbol in ("A/B", "G/H") else f"t{number}"
    return Trade("v", symbol, 1000 + number, 2000, ONE, ONE, "buy", trade_id)


def events_of(steps: Sequence[Step]) -> list[Event]:
    """Return what a feed delivers: trades and quotes, gaps, and what fills them."""
    found: list[Event] = []
    numbers: dict[str, int] = {}
    opened: dict[str, list[Gap]] = {}
    for symbol, step in steps:
        number = numbers[symbol] = numbers.get(symbol, 0) + 1
        if step == "quote":
            found.append(Quote("v", symbol, 1000 + number, 2000, ONE, ONE, ONE, ONE))
            continue
        if step == "fill" and opened.get(symbol):
            gap = opened[symbol].pop()
            numbers_of_gap = range(gap.since - 999, gap.until - 1000)
            found += [evolve(trade(symbol, n), origin="backfill") for n in numbers_of_gap]
            found.append(evolve(gap, state="filled"))
            continue
        if step in ("gap", "endless"):
            numbers[symbol] = number + 4
            before, number = trade(symbol, number - 1), number + 4
            gap = Gap(
                "v", symbol, 1000 + number, 2000, before.ts, 1000 + number, "disconnect", 4, "open", "trades",
                before.id, trade(symbol, number).id if step == "gap" else None,
            )  # fmt: skip
            opened.setdefault(symbol, []).append(gap)
            found.append(gap)
        found.append(trade(symbol, number))
    return found


def by_batch(batches: Sequence[Sequence[Event]]) -> dict[str, str]:
    positions, found = Positions(), dict[str, str]()
    for events in batches:
        changed = positions.after(events)
        positions.update(changed)
        found |= texts(changed)
    return found


def assert_same(
    found: Mapping[str, str], expected: Mapping[str, str], stored: Sequence[Sequence[Event]]
) -> None:
    """Compare positions. Of an open gap they may have more of the trades in it, but only stored ones."""
    ids = {event.id for events in stored for event in events if isinstance(event, Trade)}
    assert set(found) == set(expected)
    for key, text in expected.items():
        one, other = parse(found[key]), parse(text)
        assert evolve(one, open=()) == evolve(other, open=())
        assert [gap.gap for gap in one.open] == [gap.gap for gap in other.open]
        for mine, theirs in zip(one.open, other.open, strict=True):
            assert theirs.found <= mine.found <= ids


@settings(max_examples=150, deadline=None)
@given(steps=steps, data=st.data())
def test_checkpoints_have_the_positions_that_follow_from_each_event_in_turn(
    steps: list[Step], data: st.DataObject
) -> None:
    single = [[event] for event in events_of(steps)]
    stored, checkpoints = dict[str, str](), Checkpoints(Positions())
    for index, events in enumerate(single):
        action = data.draw(st.sampled_from(["store", "save", "fail", "close"]))
        if action == "fail":  # asked, and then not stored: it is opened again and written again
            checkpoints.texts_after(events)
            checkpoints.restart()
        if action == "save":
            stored |= checkpoints.texts_after(events)
        checkpoints.add(events)
        if action == "close":
            stored |= checkpoints.texts_after(events)
            checkpoints.restart()
        if action in ("save", "close"):
            assert_same(stored, by_batch(single[: index + 1]), single[: index + 1])


def batches_of(feed: Feed, events: Sequence[Event], sizes: Iterator[int]) -> Iterator[list[Event]]:
    """Yield events in batches, as a feed with checks does: trades that follow each other are validated."""
    last: dict[str, Trade] = {}
    batch: list[Event] = []
    size = 1
    for event in events:
        before = last.get(event.symbol)
        is_next = (
            isinstance(event, Trade)
            and event.origin == "live"
            and before is not None
            and type(event.id) is type(before.id) is int
            and event.id == before.id + 1
        )
        if isinstance(event, Trade) and event.origin == "live":
            last[event.symbol] = event
        if batch and (len(batch) >= size or is_next is not isinstance(batch, TradeBatch)):
            yield batch
            batch = []
        if not batch:
            size = next(sizes)
            batch = TradeBatch() if is_next else []
        batch.append(event)
        if isinstance(batch, TradeBatch):
            batch.subscription_ids.append(len(event.symbol) + ord(event.symbol[0]))
            batch.feed, batch.validated = feed, True
    if batch:
        yield batch


@settings(max_examples=300, deadline=None)
@given(steps=steps, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_the_positions_after_validated_trades_are_those_that_follow_from_each_in_turn(
    steps: list[Step], sizes: list[int]
) -> None:
    events, positions, checkpoints = events_of(steps), Positions(), Checkpoints(Positions())
    feed = Feed("f", "v", clock=VirtualClock())
    for batch in batches_of(feed, events, cycle(sizes)):
        positions.update(positions.after(batch))
        checkpoints.add(batch)
        if len(batch) == 1:
            checkpoints.fold()
    expected = by_batch([[event] for event in events])

    found = {key: position.to_text() for key, position in positions.by_key().items()}
    assert_same({json.dumps(key): text for key, text in found.items()}, expected, [events])
    assert_same(checkpoints.changed(), expected, [events])


def test_of_validated_trades_nothing_but_the_last_one_of_a_symbol_is_looked_at() -> None:
    trades = TradeBatch([trade("A/B", 1), trade("G/H", 1), trade("A/B", 2)], [0, 1, 0])
    trades.feed, trades.validated = Feed("f", "v", clock=VirtualClock()), True
    latest = Latest(Positions())
    latest.add(trades)

    assert latest.count == 0
    assert not latest.is_empty
    found = latest.positions()
    assert [found["v", symbol, "trades"].last for symbol in ("G/H", "A/B")] == trades[1:]


def test_a_failed_checkpoint_is_made_up_for_by_the_next_one() -> None:
    first = [Trade("v", "A/B", 1, 1, ONE, ONE, "buy", 1)]
    second = [evolve(first[0], symbol="C/D")]
    checkpoints = Checkpoints(Positions())
    checkpoints.add(first)
    checkpoints.texts_after(second)  # saved, and then the connection is lost
    checkpoints.restart()

    assert checkpoints.texts_after(second) == by_batch([first, second])
    checkpoints.add(second)
    assert checkpoints.texts_after(first) == by_batch([first])


def test_events_that_wait_for_a_checkpoint_are_bounded() -> None:
    checkpoints = Checkpoints(Positions())
    for number in range(40):  # ids that are texts: each of them may be repeated after a subscribe
        checkpoints.add([Trade("v", "A/B", number, 1, ONE, ONE, "buy", f"t{number}")] * 1000)
        assert checkpoints._pending.count < 16_384


def test_only_the_last_one_of_rising_trades_and_of_quotes_is_kept() -> None:
    latest = Latest(Positions())
    latest.add(trade(symbol, number) for number in range(100) for symbol in ("A/B", "E/F"))
    latest.add(Quote("v", "A/B", number, 1, ONE, ONE, ONE, ONE) for number in range(100))
    assert latest.count == 2 + 1 + 99  # those of E/F have texts as ids

    falling = [trade("A/B", 99), evolve(trade("A/B", 98), ts=5000), trade("A/B", 120)]
    latest.add(falling)
    assert latest.positions()["v", "A/B", "trades"].ts == 5000


def test_all_trades_of_an_open_gap_are_kept() -> None:
    gap = Gap(
        "v", "A/B", 1010, 2000, 1000, 1010, "disconnect", 9, "open", "trades", 0, 10
    )  # fmt: skip
    positions = Positions()
    positions.update(positions.after([gap, *(trade("A/B", number) for number in (3, 4, 10))]))
    (position,) = positions.by_key().values()
    assert position.open[0].found == {3, 4}

    positions.update(positions.after([trade("A/B", number) for number in (5, 6, 7)]))
    (position,) = positions.by_key().values()
    assert position.open[0].found == {3, 4, 5, 6, 7}
    assert position.last == trade("A/B", 10)


def test_past_trades_without_a_number_that_are_newer_than_the_last_one_are_where_a_store_stands() -> (
    None
):
    """A node was killed while it fetched what came since: whoever continues does not ask for that again."""
    first, (before, *rest) = trade("C/D", 1), [trade("C/D", number) for number in range(5, 10)]
    past = [evolve(event, origin="backfill") for event in (*rest, before)]
    positions = Positions()
    for event in (first, *past):
        positions.update(positions.after([event]))

    (position,) = positions.by_key().values()
    assert position.last == past[-2]
    assert position.last.ts == 1009
