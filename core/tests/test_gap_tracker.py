"""GapTracker and LastSeen: where gaps begin and end, and that each is reported once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from time import process_time
from typing import Any

import anyio
import pytest
import tapeloom
from attrs import evolve
from tapeloom import Bar, Event, FeedSpec, Gap, Quote, Registry, Stack, Trade
from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom._gaps.last_seen import LastSeen
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Feed, Loss, Request, Subscription, TradeBatch
from tapeloom_testing import VirtualClock

SECOND = 1_000_000_000
ONE = Decimal(1)
TRADES, QUOTES = Subscription("BTC/USD", "trades"), Subscription("BTC/USD", "quotes")


def trade(at: float, number: int | str = "", seen: float | None = None) -> Trade:
    """A trade at that second, received 0.1 s later unless *seen* says otherwise."""
    ts = round(at * SECOND)
    recv = ts + SECOND // 10 if seen is None else round(seen * SECOND)
    return Trade("acme", "BTC/USD", ts, recv, ONE, ONE, "buy", number, "trades")


def quote(at: float, seen: float) -> Quote:
    return Quote(
        "acme", "BTC/USD", round(at * SECOND), round(seen * SECOND), ONE, ONE, ONE, ONE, "quotes"
    )


class Wall(VirtualClock):
    """A virtual clock whose wall time can be set."""

    shift = 0

    def time_ns(self) -> int:
        return super().time_ns() + self.shift


class Rig:
    """A GapTracker with two live subscriptions, called as a supervisor calls it."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.clock = Wall(0)
        self.gaps = GapTracker("acme", self.clock, self.counters)
        self.gaps.live |= {TRADES, QUOTES}

    def cut(self, at: float, **options: Any) -> None:
        self.gaps.connection_lost([TRADES, QUOTES], round(at * SECOND), **options)

    def read(self, *events: Event) -> list[Gap]:
        batch = list(events)
        processed = self.gaps.process(batch)
        self.gaps.last_seen.add(batch)
        return [event for event in processed if isinstance(event, Gap)]


def test_a_gap_of_trades_is_on_the_clock_of_the_trades_channel() -> None:
    rig = Rig()
    rig.read(trade(10), quote(15, seen=10.2))  # the clock of the quotes is five seconds ahead
    rig.cut(11)
    (gap,) = rig.read(trade(20))

    assert (gap.since, gap.until) == (10 * SECOND, 20 * SECOND)


def test_a_gap_of_trades_begins_with_the_last_trade_of_the_symbol() -> None:
    rig = Rig()
    rig.read(trade(10))
    other = evolve(trade(15), symbol="ETH/USD")
    rig.read(other)
    rig.cut(16)
    (gap,) = rig.read(trade(20))

    assert gap.since == 10 * SECOND


def test_the_offset_of_a_clock_that_was_set_back_is_learnt_after_a_while() -> None:
    rig = Rig()
    for at in range(10):
        rig.read(trade(at + 5, seen=at))  # ahead of ours
    for at in range(10, 200):
        rig.read(trade(at - 0.1, seen=at))
    rig.gaps.stalled(QUOTES, 200 * SECOND, 0.0)
    (gap,) = rig.read(quote(220, seen=220))

    assert gap.since == round(199.9 * SECOND)


@pytest.mark.parametrize(
    ("set_back", "expected"), [(0.0, [(10.0, 18.5)]), (2.0, [(7.9, 10.0), (10.0, 20.1)])]
)
def test_past_trades_that_end_a_gap_show_that_the_venues_clock_was_set_back(
    set_back: float, expected: list[tuple[float, float]]
) -> None:
    rig = Rig()
    rig.read(trade(10, "a"))
    rig.cut(10.2)
    past = [
        evolve(trade(at - set_back, text, seen=20.2), origin="backfill")
        for at, text in ((18.5, "b"), (20, "c"))
    ]
    gaps = [gap for gap in rig.read(*past) if gap.channel == "trades"]

    # By our clock it is 20.1 at the venue, and its clock says 18: what was missed right after the last
    # trade may have a time before it, and what was missed later may have one until 20.1.
    assert [(gap.since / SECOND, gap.until / SECOND) for gap in gaps] == expected


def test_past_trades_whose_times_go_back_show_that_the_venues_clock_was_set_back() -> None:
    """In the 10 s the clock was 2 s ahead; the last trade with its time is not the newest one."""
    rig = Rig()
    rig.read(trade(12, "a", seen=10.1))
    rig.cut(10.2)
    times = {"b": 20.8, "c": 21.5, "d": 19.6, "e": 20}
    past = [evolve(trade(at, text, seen=20.1), origin="backfill") for text, at in times.items()]
    gaps = [gap for gap in rig.read(*past) if gap.channel == "trades"]

    assert [(gap.since / SECOND, gap.until / SECOND) for gap in gaps] == [(10, 12), (12, 22)]


@pytest.mark.parametrize("delay", [0.1, 2.1])
def test_a_clock_that_only_another_symbol_showed_counts_for_a_gap_that_goes_on(
    delay: float,
) -> None:
    """Between two disconnects the venue's clock is 2 s behind, or the only trade came 2 s late."""
    rig = Rig()
    other = Subscription("ETH/USD", "trades")
    rig.gaps.live.add(other)
    rig.read(trade(10, "a"))
    for at in (11, 20):
        rig.clock.advance(at - rig.clock.monotonic())
        if at == 20:
            rig.read(evolve(trade(20 - delay, "x", seen=20), symbol="ETH/USD"))
        rig.gaps.connection_lost([TRADES, other], at * SECOND)
    rig.clock.advance(10)
    gaps = [gap for gap in rig.read(trade(29.9, "b")) if gap.symbol == "BTC/USD"]
    times = [(gap.since / SECOND, gap.until / SECOND) for gap in gaps]

    assert times == ([(10, 29.9)] if delay < 1 else [(8.0, 10), (10, 29.9)])


def test_a_single_time_of_the_future_does_not_move_the_clock_offset() -> None:
    rig = Rig()
    for at in range(10):
        rig.read(trade(at))
    rig.read(evolve(trade(3610, seen=10), symbol="ETH/USD"))
    rig.read(trade(11))
    rig.gaps.stalled(QUOTES, 20 * SECOND, 5.0)
    (gap,) = rig.read(quote(30, seen=30))

    assert gap.since == round(14.9 * SECOND)


def test_a_gap_begins_where_the_subscription_stopped_before_the_disconnect() -> None:
    rig = Rig()
    rig.read(trade(10))
    rig.cut(30, maybe_stalled={TRADES: 9 * SECOND})
    (gap,) = rig.read(trade(40))

    assert gap.since == round(8.9 * SECOND)


@pytest.mark.parametrize(("first", "last"), [(7, 12), ("a", "b")])
def test_a_gap_reported_before_an_event_came_is_reported_again_with_the_event(
    first: int | str, last: int | str
) -> None:
    rig = Rig()
    rig.read(trade(10, first))
    rig.cut(11)
    rig.gaps.confirmed([TRADES], 21 * SECOND, 21.0)  # acknowledged, but no event
    (unended,) = rig.gaps.overdue(30.0)
    rig.cut(31)
    (gap,) = rig.read(trade(40, last))

    assert isinstance(unended, Gap)
    assert (unended.since, unended.until) == (10 * SECOND, round(20.9 * SECOND))
    assert (gap.since, gap.until) == (10 * SECOND, 40 * SECOND)
    assert (gap.after_id, gap.before_id) == (first, last)
    assert rig.counters["gaps"] == 1


def test_a_symbol_that_stays_mute_after_a_reconnect_has_one_gap() -> None:
    rig = Rig()
    rig.read(trade(10, 1))
    rig.cut(11)
    rig.gaps.confirmed([TRADES], 20 * SECOND, 20.0)
    told = rig.gaps.overdue(30.0)
    rig.gaps.stalled(TRADES, 60 * SECOND, 50.0)
    rig.gaps.confirmed([TRADES], 61 * SECOND, 61.0)
    told += rig.gaps.overdue(70.0)
    told += rig.read(trade(80, 9))

    assert {(gap.since, gap.after_id, gap.cause) for gap in told if isinstance(gap, Gap)} == {
        (10 * SECOND, 1, "disconnect")
    }
    assert [gap.until // SECOND for gap in told if isinstance(gap, Gap)] == [19, 60, 80]


@pytest.mark.parametrize("ends", ["with an event", "without one"])
def test_a_gap_that_goes_on_is_reported_again_whatever_the_venues_clock_was_estimated_to_be(
    ends: str,
) -> None:
    """The venue's clock, which was an hour ahead, has been set right while the connection was down."""
    rig = Rig()
    rig.gaps.request = lambda query: Request(url="")
    rig.read(quote(3609, seen=9), trade(10, "a"))
    rig.cut(11)
    rig.gaps.last_seen.clock_offset.mark_complete("trades", 3610 * SECOND)
    rig.gaps.confirmed([TRADES], 3620 * SECOND, 20.0)
    (first,) = rig.gaps.overdue(30.0)
    fill = rig.gaps.watched[TRADES].fill
    fill.next_query()
    fill.process([trade(10, "a"), trade(15, "b")], Request(url=""), 30 * SECOND)
    rig.cut(31)
    again: list[Event] = []
    if ends == "with an event":
        again += rig.read(trade(40, "d"))
    else:
        rig.gaps.confirmed([TRADES], 40 * SECOND, 40.0)
        again += rig.gaps.overdue(50.0)

    (gap,) = again
    assert isinstance(first, Gap)
    assert isinstance(gap, Gap)
    assert (gap.since, gap.after_id, gap.state) == (first.since, first.after_id, "open")
    assert gap.until >= first.until
    assert fill.waiting  # what was missed since then is requested


def test_a_trade_that_came_late_does_not_show_that_an_answer_reaches_back_to_the_gaps_begin() -> (
    None
):
    """The answer has three trades: those of which two came after the gap, in the wrong order."""
    rig = Rig()
    rig.gaps.request = lambda query: Request(url="")
    rig.read(trade(10, "a"))
    rig.cut(11)
    rig.read(trade(80, "j"), trade(79, "i"))
    fill = rig.gaps.watched[TRADES].fill
    fill.next_query()
    (gap,) = fill.process(
        [trade(81, "k"), trade(80, "j"), trade(79, "i")], Request(url=""), 90 * SECOND
    )

    assert isinstance(gap, Gap)
    assert (gap.since, gap.until) == (10 * SECOND, 80 * SECOND)
    assert gap.state == "unrecoverable"


def test_a_loss_that_was_reported_is_not_reported_again_by_a_stage() -> None:
    rig = Rig()
    rig.read(trade(10, 1))
    rig.cut(11)
    (gap,) = rig.read(trade(20, 5))
    same = Loss(*TRADES, since=10 * SECOND, until=20 * SECOND, recv=1, after_id=1, before_id=5)
    later = Loss(*TRADES, since=20 * SECOND, until=21 * SECOND, recv=1, after_id=5, before_id=8)
    again, (more,) = rig.gaps.open(same), rig.gaps.open(later)

    assert gap.missing == 3
    assert again == []
    assert isinstance(more, Gap)
    assert (more.after_id, more.before_id, more.missing) == (5, 8, 2)


def test_of_a_loss_only_the_ids_that_no_gap_holds_are_reported() -> None:
    rig = Rig()
    rig.read(trade(10, 10))
    rig.cut(11)
    rig.read(trade(20, 15))
    loss = Loss(*TRADES, since=9 * SECOND, until=21 * SECOND, recv=1, after_id=8, before_id=18)
    reports = rig.gaps.open(loss)

    assert [(r.after_id, r.before_id, r.missing) for r in reports if isinstance(r, Gap)] == [
        (8, 11, 2),
        (14, 18, 2),  # 15 is there
    ]


@pytest.mark.parametrize("can_fill", [False, True])
def test_a_gap_costs_the_same_after_many_thousands(can_fill: bool) -> None:
    """Ids that jump: each trade is the end of a gap."""
    rig = Rig()
    if can_fill:
        rig.gaps.request = lambda query: Request(url="http://127.0.0.1/trades")

    def cost(first: int) -> float:
        began = process_time()
        for number in range(first, first + 2000):
            times = {"since": number, "until": number + 1, "recv": number + 1}
            rig.gaps.open(Loss(*TRADES, **times, after_id=3 * number, before_id=3 * number + 3))
        return process_time() - began

    costs = [cost(2000 * number) for number in range(10)]

    assert rig.counters["gaps"] == 20_000
    assert min(costs[5:]) < 4 * min(costs[:5])
    assert len(list(rig.gaps.watched[TRADES].fill)) <= 1064


def test_trades_that_follow_in_the_same_batch_are_not_missing() -> None:
    rig = Rig()
    rig.read(trade(10, 1))
    rig.read(trade(12, 3), trade(11, 2))
    loss = Loss(*TRADES, since=10 * SECOND, until=12 * SECOND, recv=1, after_id=1, before_id=3)

    assert rig.gaps.open(loss) == []


def test_an_event_from_before_the_gap_does_not_end_it() -> None:
    rig = Rig()
    rig.read(trade(10, 5))
    rig.cut(11)
    repeated = rig.read(trade(10, 5))
    (gap,) = rig.read(trade(20, 9))

    assert repeated == []
    assert (gap.after_id, gap.before_id, gap.missing) == (5, 9, 3)


@pytest.mark.parametrize(
    ("back", "since", "until", "state"),
    [(0.5, 10, 19.5, "open"), (2, 10, 20, "open"), (30, -20, 20, "unrecoverable")],
)
def test_a_gap_in_which_the_venue_set_its_clock_back_has_times_of_both_clocks(
    back: float, since: float, until: float, state: str
) -> None:
    rig = Rig()
    rig.gaps.request = lambda query: Request(url="")
    rig.read(trade(10, "a"))
    rig.cut(11)
    *doubtful, gap = rig.read(trade(20 - back, "b", seen=20.1))

    before = [(8 * SECOND, 10 * SECOND)] if state == "open" and back > 1 else []
    assert [(other.since, other.until) for other in doubtful] == before
    assert (gap.since, gap.until) == (round(since * SECOND), round(until * SECOND))
    assert (gap.after_id, gap.before_id, gap.state) == ("a", "b", state)


@pytest.mark.parametrize(("own_step", "elapsed"), [(0, 1), (-9, 10), (3600, 10), (0.4, 1)])
def test_how_long_a_gap_lasted_does_not_depend_on_our_own_clock_that_was_set(
    own_step: float, elapsed: float
) -> None:
    rig = Rig()
    rig.clock.advance(10.1)
    rig.read(trade(10, "a"))
    rig.cut(10.1)
    rig.clock.advance(elapsed)
    rig.clock.shift = round(own_step * SECOND)
    seen = rig.clock.time_ns() / SECOND
    (gap,) = rig.read(trade(3, "b", seen=seen if own_step != 0.4 else seen - 0.4))

    times = 3 - elapsed, 10 + elapsed
    assert (gap.since / SECOND, gap.until / SECOND) == pytest.approx(times)
    assert gap.state == "unrecoverable"


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("seen_again", [True, False])
def test_a_trade_seen_before_our_own_clock_was_set_is_as_old_as_it_was(
    seen_again: bool, is_checked: bool
) -> None:
    """Our clock is set back by five seconds after the last trade; then the venue's.

    That ours was set is noticed by the check of each second, or as the connection is lost.
    """
    rig = Rig()
    rig.clock.advance(10)
    rig.read(trade(10, "a"))
    rig.clock.advance(1.9)
    rig.gaps.clocks.check()
    rig.clock.shift = -5 * SECOND
    if seen_again:  # by our clock as it is now
        rig.read(trade(12, "b", seen=7.1))
    rig.clock.advance(0.6)
    if is_checked:
        rig.gaps.clocks.check()
    rig.cut(7.6)
    (gap,) = rig.read(trade(3, "c", seen=9.1))

    last, elapsed = (12, 2) if seen_again else (10, 4)
    assert (gap.since / SECOND, gap.until / SECOND) == (3 - elapsed, last + elapsed)


def test_our_own_clock_that_is_set_and_set_back_during_a_gap_does_not_shorten_it() -> None:
    """It is set just before the connection is lost, and is right again when the gap ends."""
    rig = Rig()
    rig.clock.advance(3700)
    rig.gaps.clocks.check()
    rig.read(trade(3700, "a"))
    rig.clock.shift = -3600 * SECOND
    rig.cut(100)
    rig.clock.advance(60)
    rig.clock.shift = 0
    (gap,) = rig.read(trade(3600, "b", seen=3760.1))

    assert (gap.since / SECOND, gap.until / SECOND) == (3540, 3760)


def test_what_is_missed_while_the_venues_clock_is_set_twice_may_have_times_of_three_clocks() -> (
    None
):
    rig = Rig()
    rig.clock.advance(10.1)
    rig.read(trade(10, "a"))
    rig.cut(11)
    rig.clock.advance(5)
    rig.gaps.clocks.venue_clock_set(-100 * SECOND)  # the trades of another symbol show it
    rig.clock.advance(5)
    doubtful, gap = rig.read(trade(20, "b"))

    # Of ten seconds, each may be one of the clock that was a hundred behind.
    assert (doubtful.since, doubtful.until) == (round(-89.9 * SECOND), 10 * SECOND)
    assert (doubtful.state, doubtful.after_id) == ("unrecoverable", None)
    assert (gap.since, gap.until, gap.before_id) == (10 * SECOND, 20 * SECOND, "b")


def test_the_venues_clock_counts_for_the_gaps_that_are_open_as_it_is_set() -> None:
    rig = Rig()
    rig.clock.advance(10)
    rig.gaps.clocks.venue_clock_set(-100 * SECOND)
    rig.clock.advance(5)
    rig.read(trade(15, "a"))
    rig.cut(16)
    rig.clock.advance(5)
    (gap,) = rig.read(trade(20, "b"))

    assert (gap.since, gap.until) == (15 * SECOND, 20 * SECOND)


def eth_trade(at: float, seen: float) -> Trade:
    """A trade of another symbol."""
    return evolve(trade(at, f"x{at}", seen), symbol="ETH/USD")


@pytest.mark.parametrize("is_stalled", [True, False], ids=["stalled", "cut"])
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (100.0, [(10.0, 120.0)]),
        (-100.0, [(-90.0, 10.0), (10.0, 20.0)]),
        (-2.5, [(10.0, 20.0)]),  # the trade came so much later: times do not go back
    ],
)
def test_a_clock_that_is_set_and_set_back_during_a_gap_is_seen_by_another_symbol(
    step: float, expected: list[tuple[float, float]], is_stalled: bool
) -> None:
    rig = Rig()
    rig.clock.advance(10)
    rig.read(trade(9.9, "a", seen=10), eth_trade(9.9, seen=10))
    rig.gaps.clocks.check()
    if not is_stalled:
        rig.gaps.connection_lost([TRADES], 10 * SECOND)
    rig.clock.advance(4)
    rig.read(eth_trade(14 + step, seen=14.0))
    rig.gaps.clocks.check()
    rig.clock.advance(2)
    rig.read(eth_trade(16, seen=16.0))  # right again
    rig.gaps.clocks.check()
    if is_stalled:
        rig.gaps.stalled(TRADES, 16 * SECOND, 6.0)
    rig.clock.advance(4)
    gaps = rig.read(trade(20, "b", seen=20.0))

    times = [(gap.since / SECOND, gap.until / SECOND) for gap in gaps]
    assert times == [pytest.approx(one, abs=0.11) for one in expected]


def test_a_reported_gap_that_ends_after_the_venues_clock_was_set_back_has_times_of_both() -> None:
    rig = Rig()
    rig.read(trade(10, "a"))
    rig.cut(11)
    rig.gaps.confirmed([TRADES], 12 * SECOND, 12.0)
    (unended,) = rig.gaps.overdue(20.0)
    doubtful, gap = rig.read(trade(-70, "b", seen=30.1))

    assert isinstance(unended, Gap)
    assert (doubtful.since, doubtful.until) == (-90 * SECOND, 10 * SECOND)
    assert (gap.since, gap.until) == (10 * SECOND, 30 * SECOND)
    assert gap.identity == unended.identity


@pytest.mark.parametrize(
    ("ts", "until"),
    [
        (3610.0, 3614.9),  # not believed, so that it gives no offset; a second more than has passed
        (10.1, 14.0),  # the venue sends no times
    ],
)
def test_a_silent_gap_lasts_until_the_acknowledgement_where_no_clock_offset_is_known(
    ts: float, until: float
) -> None:
    rig = Rig()
    rig.read(trade(ts, "a", seen=10.1))
    rig.cut(11)
    rig.gaps.confirmed([TRADES], 14 * SECOND, 14.0)
    (gap,) = rig.gaps.overdue(20.0)

    assert isinstance(gap, Gap)
    assert gap.until == round(until * SECOND)


def test_the_start_of_a_bar_does_not_show_that_the_venues_clock_was_set_back() -> None:
    rig = Rig()
    bars = Subscription("BTC/USD", "klines:1h")
    rig.gaps.live.add(bars)

    def bar(seen: int) -> Bar:
        values = ONE, ONE, ONE, ONE, ONE, None, None, None, 1, False
        return Bar("acme", bars.symbol, 0, seen * SECOND, "1h", *values, channel=bars.channel)

    rig.read(bar(60))
    rig.gaps.connection_lost([bars], 61 * SECOND)
    gaps = rig.read(bar(120))

    assert [(gap.since, gap.until) for gap in gaps] == [(0, 0)]


def test_of_trades_with_one_time_the_last_is_the_one_with_the_highest_id() -> None:
    """The older one comes in a large batch of its own kind, the newer one beside other events."""
    rig = Rig()
    rig.read(trade(10, 1))
    batch = TradeBatch([trade(11, n) for n in range(2, 12)], [0] * 10)
    rig.gaps.last_seen.add(batch)
    rig.read(trade(11, 13), trade(11, 12))
    rig.cut(12)
    (gap,) = rig.read(trade(20, 15))

    assert (gap.after_id, gap.missing) == (13, 1)


def test_a_stall_discards_the_acknowledgement_before_it() -> None:
    rig = Rig()
    rig.read(trade(10))
    rig.cut(11)
    rig.gaps.confirmed([TRADES], 20 * SECOND, 20.0)
    rig.gaps.stalled(TRADES, 21 * SECOND, 0.0)

    assert rig.gaps.overdue(40.0) == []
    (gap,) = rig.read(trade(50))
    assert (gap.since, gap.until) == (10 * SECOND, 50 * SECOND)


def test_a_dropped_subscription_is_removed_from_the_last_seen_events() -> None:
    last_seen = LastSeen()
    last_seen.add(TradeBatch([trade(1, 5)], [0]))
    last_seen.add([trade(2, 6)])
    last_seen.forget([TRADES])

    assert last_seen.last_event(TRADES) is None


def test_text_trade_ids_are_kept() -> None:
    last_seen = LastSeen()
    last_seen.add([trade(1, "a"), trade(2, "b")])
    last_seen.add(TradeBatch([trade(3, f"c{n}") for n in range(2000)], [0] * 2000))
    known = last_seen.trade_ids()[TRADES]

    assert 1000 < len(known) <= 1024  # the latest
    assert "c1999" in known


# ------------------------------------------------------------------------------- a whole stream


class BreakingSource:
    """A source that fails after each batch, and waits after the last one."""

    backends = frozenset({"asyncio", "trio"})
    channels = frozenset({"trades"})
    resumes = False

    def __init__(self, clock: VirtualClock, *batches: list[Trade]) -> None:
        self.clock, self.batches = clock, list(batches)
        self.more = anyio.Event()

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        if not self.batches:
            await anyio.sleep_forever()
        await deliver(list(self.batches.pop(0)))
        await self.more.wait()
        self.more = anyio.Event()
        raise ConnectionLost("well", "it broke", None)

    def symbols_changed(self) -> None:
        """Do nothing."""


class Plugin:
    def __init__(self, source: BreakingSource) -> None:
        self.source = source

    @tapeloom.hooks.hookimpl
    def connect(self, feed: Feed) -> BreakingSource:
        return self.source


async def gaps_of(registry: Registry, source: BreakingSource, steer: Any) -> list[Gap]:
    """Return the gaps of a stream from *source*; *steer* controls the stream."""
    registry.register(Plugin(source), "well")
    stack = Stack(feeds=(FeedSpec("well", ("BTC/USD",), ("trades",)),))
    gaps: list[Gap] = []
    async with (
        source.clock.running(),
        tapeloom.open(stack, registry=registry, clock=source.clock, seed=1) as stream,
    ):
        consumer = stream.of(Gap)
        with anyio.fail_after(5):
            await steer(stream)
            await source.clock.sleep(60)
            stream.stop()
            gaps += [gap async for gap in consumer]
    return gaps


async def test_a_source_reports_the_next_gap_of_a_symbol_dropped_and_added_again(
    registry: Registry,
) -> None:
    source = BreakingSource(VirtualClock(), [trade(1)], [trade(2)], [trade(3)])

    async def steer(stream: tapeloom.Stream) -> None:
        await source.clock.sleep(1)
        await stream.drop("BTC/USD")
        await stream.add("BTC/USD")
        source.more.set()
        await source.clock.sleep(60)
        source.more.set()

    gaps = await gaps_of(registry, source, steer)

    assert [(gap.since, gap.until) for gap in gaps] == [(2 * SECOND, 3 * SECOND)]


async def test_a_gap_that_is_open_as_the_stream_ends_is_reported(registry: Registry) -> None:
    source = BreakingSource(VirtualClock(), [trade(1)])

    async def steer(stream: tapeloom.Stream) -> None:
        await source.clock.sleep(1)
        source.more.set()

    (gap,) = await gaps_of(registry, source, steer)

    assert (gap.symbol, gap.cause, gap.state) == ("BTC/USD", "disconnect", "unrecoverable")
    assert gap.since == SECOND
    assert gap.until > SECOND


def test_after_a_restart_an_open_gap_ends_where_the_gap_of_the_restart_begins() -> None:
    rig = Rig()
    rig.gaps.request = lambda query: Request(url="https://acme.invalid/trades")
    gap = Gap(
        "acme", "BTC/USD", 9 * SECOND, 0, 2 * SECOND, 9 * SECOND, "restart", None, "open", "trades", 2,
    )  # fmt: skip
    known = [(gap, {3, 5}), (evolve(gap, since=SECOND, after_id=1), {2, 3, 4, 5})]
    reports = rig.gaps.resume(TRADES, 5 * SECOND, trade(5, 5), (), known)

    assert [(report.after_id, report.before_id) for report in reports] == [(2, 6), (1, 6)]  # type: ignore[attr-defined]
    assert [(report.missing, report.state) for report in reports] == [(1, "open"), (0, "filled")]  # type: ignore[attr-defined]


def test_after_a_restart_what_the_venue_repeats_is_left_out_and_what_is_new_is_delivered() -> None:
    """The trades of its first batch are from before the gap, from a gap of before, or what was missed."""
    rig = Rig()
    rig.gaps.request = lambda query: Request(url="https://acme.invalid/trades")
    old = Gap(
        "acme", "BTC/USD", 4 * SECOND, 0, 2 * SECOND, 4 * SECOND, "restart", None, "open", "trades", "b",
    )  # fmt: skip
    rig.gaps.resume(TRADES, 5 * SECOND, trade(5, "e"), ["b1", "d", "e"], [(old, {"c"})])
    past = [
        (1, "a"),
        (2, "b1"),
        (2, "b"),
        (2.5, "c"),
        (3, "c2"),
        (4.5, "d"),
        (5, "e"),
        (5, "f"),
        (6, "g"),
    ]
    batch = [evolve(trade(at, name), origin="history") for at, name in past]
    delivered = rig.gaps.process([*batch, trade(7, "h")])

    assert [event.id for event in delivered if isinstance(event, Trade)] == ["c2", "f", "g", "h"]
    gaps = [(event.since, event.until) for event in delivered if isinstance(event, Gap)]
    assert gaps == [(5 * SECOND, 5 * SECOND)]  # it is from there on that the venue sends all
    assert rig.counters["repeated_trades"] == 6
