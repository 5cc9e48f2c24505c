"""The stage against a naive one that keeps every trade and works everything out anew."""

from __future__ import annotations

import random
from collections import defaultdict
from decimal import Decimal, localcontext
from itertools import pairwise

import attrs
from hypothesis import example, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from tapeloom.events import Bar, Gap, Quote, Reject, Trade
from tapeloom.plugin import TradeBatch
from tapeloom_bars import Bars, Settings

MS = 1_000_000
SECOND = 1_000 * MS
MINUTE = 60 * SECOND
LENGTHS = {"1s": SECOND, "3s": 3 * SECOND, "1m": MINUTE}
BEGIN = 1_700_000_000 * SECOND


def usable(trade):
    return trade.price.is_finite() and trade.size.is_finite()


class Naive:
    """What the stage promises, with no thought of speed."""

    def __init__(self, settings):
        self.settings = settings
        self.channel = {}
        self.heard = []  # (recv, ts - recv) of all trades that count, None for past ones
        self.came = defaultdict(list)  # symbol: all trades that count
        self.gaps = defaultdict(list)
        self.bad = []
        self.floor = {}
        self.opened = {}
        self.closed = {}  # (symbol, interval): {start: [trades, revision, complete or None, price]}
        self.filled = defaultdict(int)
        self.room = {}  # (symbol, interval): up to when our time is counted, how many bars it has room for

    def lanes(self, symbol):
        return [(symbol, name) for name in self.settings.every]

    def event(self, event):
        if type(event) is Gap:
            return [event, *self.gap(event)]
        if type(event) is not Trade or not self.counts(event):
            return [event]
        symbol, ts, lateness = event.symbol, event.ts, self.settings.lateness
        for lane in self.lanes(symbol):
            if lane not in self.floor:
                length = LENGTHS[lane[1]]
                self.floor[lane] = (ts - lateness) // length * length
                self.opened[lane], self.closed[lane] = {}, {}
        self.heard.append((event.recv, None))
        ahead = self.ahead()
        if event.origin == "live" or ahead is None:
            self.heard[-1] = event.recv, ts - event.recv
        elif ts > event.recv + ahead + lateness:
            self.gaps[symbol].append((ts, ts))
        self.came[symbol].append(event)
        mark = max(trade.ts for trade in self.came[symbol])
        bars = []
        for lane in self.lanes(symbol):
            past = event.origin != "live"
            bars += self.close(lane, mark - lateness, event.recv, by_time=False, past=past)
        return [*ordered(bars), event, *self.place(event)]

    def counts(self, trade):
        if trade.origin == "history" and not self.settings.history:
            return False
        if trade.channel in ("trades", "agg_trades"):
            self.channel.setdefault(trade.symbol, trade.channel)
        return self.channel.get(trade.symbol) == trade.channel

    def place(self, trade):
        revised, lost = [], []
        lanes = self.lanes(trade.symbol)
        starts = {lane: trade.ts // LENGTHS[lane[1]] * LENGTHS[lane[1]] for lane in lanes}
        for lane in lanes:
            start, length = starts[lane], LENGTHS[lane[1]]
            keep = self.settings.keep * length if self.settings.revise else 0
            if start >= self.floor[lane]:
                self.opened[lane].setdefault(start, []).append(trade)
            elif start < self.floor[lane] - keep:
                lost.append(lane)
            else:
                entry = self.closed[lane].setdefault(start, [[], 0, None, None])
                entry[0].append(trade)
                if usable(trade) or entry[2]:
                    revised.append(self.again(lane, start, trade.recv))
        if not usable(trade):
            self.bad.append(trade)
            lost = []
        return ordered(revised) + ([("late_trade", trade)] if lost else [])

    def gap(self, gap):
        changed = []
        for symbol in sorted(self.came) if not gap.symbol else [gap.symbol]:
            if symbol not in self.came or gap.channel not in ("", self.channel[symbol]):
                continue
            hole = (gap.since, gap.until)
            if gap.state == "filled":
                self.gaps[symbol] = [one for one in self.gaps[symbol] if one != hole]
            else:
                self.gaps[symbol].append(hole)
            for lane in self.lanes(symbol):
                length = LENGTHS[lane[1]]
                keep = self.settings.keep * length if self.settings.revise else 0
                for start, entry in self.closed[lane].items():
                    sent = entry[2] is not None and start >= self.floor[lane] - keep
                    if sent and self.complete(lane, start, entry[0]) != entry[2]:
                        changed.append(self.again(lane, start, gap.recv))
        return ordered(changed)

    def again(self, lane, start, recv):
        entry = self.closed[lane][start]
        entry[1] += 1
        entry[2] = self.complete(lane, start, entry[0])
        return self.bar(lane, start, entry[0], recv, entry[3], revision=entry[1])

    def complete(self, lane, start, trades):
        end = start + LENGTHS[lane[1]]
        holes = self.gaps[lane[0]]
        return (
            start > self.came[lane[0]][0].ts
            and all(map(usable, trades))
            and not any(since < end and until >= start for since, until in holes)
        )

    def price(self, lane):
        """The close of the latest closed bar that has trades."""
        bars = [
            (s, entry[0]) for s, entry in self.closed[lane].items() if any(map(usable, entry[0]))
        ]
        return last(max(bars)[1]).price if bars else None

    def most_fills(self, lane, target, recv, past):
        """As many as our time has room for, a few more for delays, and 1,000 more between past trades."""
        length, first_trade = LENGTHS[lane[1]], self.came[lane[0]][0]
        since = first_trade.ts - self.settings.lateness
        start = first_trade.recv, min(1000, max(0, first_trade.recv - since) // length)
        counted, unused = self.room.get(lane, start)
        passed = max(0, recv - counted) // length
        unused = min(unused + passed, self.settings.fill_limit)
        left = max(0, unused - max(0, target - self.floor[lane]) // length)
        self.room[lane] = min(counted + passed * length, recv), left
        return unused + (1000 if past else 2)

    def close(self, lane, until, recv, *, by_time, past=False):
        length, opened, out = LENGTHS[lane[1]], self.opened[lane], []
        target = until // length * length
        fill = self.settings.empty == "fill"
        if fill and (self.price(lane) is None or self.filled[lane] >= self.settings.fill_limit):
            opens = min(opened, default=target)  # what cannot be filled takes no room
            if opens < target or not by_time:
                self.floor[lane] = max(self.floor[lane], min(opens, target))
            if opens >= target:
                return []
        reached = self.floor[lane]
        most = self.most_fills(lane, target, recv, past) if fill and target > reached else 0
        left_out = False
        for start in range(self.floor[lane], target, length):
            trades = opened.pop(start, None)
            price = self.price(lane) if fill else None
            if trades is not None and any(map(usable, trades)):
                self.filled[lane], price = 0, None
            elif price is not None and self.filled[lane] < self.settings.fill_limit and most > 0:
                self.filled[lane] += 1
                most -= 1
            else:
                left_out = left_out or (fill and most <= 0)
                if trades is not None:
                    self.closed[lane][start] = [trades, 0, None, None]
                    reached = start + length if not fill else reached
                continue
            entry = self.closed[lane][start] = [trades or [], 0, None, price]
            entry[2] = self.complete(lane, start, entry[0])
            out.append(self.bar(lane, start, entry[0], recv, price))
            reached = start + length
        by_time = by_time and not left_out
        self.floor[lane] = reached if by_time else max(self.floor[lane], target)
        return out

    def ahead(self):
        """The largest lead of the current and the previous minute, which only trades move."""
        current = previous = None
        window = None
        for recv, lead in self.heard:
            begins = recv // MINUTE * MINUTE
            if window is None or recv >= window + MINUTE or recv < window - MINUTE:
                previous = current if window is not None and begins == window + MINUTE else None
                current, window = None, begins
            current = max((one for one in (current, lead) if one is not None), default=None)
        return max((one for one in (current, previous) if one is not None), default=None)

    def wake(self, symbol):
        times = []
        for lane in self.lanes(symbol):
            length = LENGTHS[lane[1]]
            times += [start + length for start in self.opened[lane]]
            filling = self.settings.empty == "fill" and self.price(lane) is not None
            if filling and self.filled[lane] < self.settings.fill_limit:
                times.append(self.floor[lane] + length)
        return min(times, default=1 << 62) + self.settings.lateness

    def due(self):
        return min(self.wake(symbol) for symbol in self.came) - self.ahead() if self.came else None

    def tick(self, now):
        bars = []
        if not self.came:
            return []
        projected = now + self.ahead()
        symbols = [symbol for symbol in self.came if self.wake(symbol) <= projected]
        for symbol in sorted(symbols, key=lambda one: (self.wake(one), one)):
            for lane in self.lanes(symbol):
                bars += self.close(lane, projected - self.settings.lateness, now, by_time=True)
        return ordered(bars)

    def flush(self):
        bars = [
            self.bar(lane, start, trades, self.heard[-1][0], None, closed=False)
            for lane, opened in self.opened.items()
            for start, trades in opened.items()
            if any(map(usable, trades))
        ]
        return ordered(bars)

    def bar(self, lane, start, came, recv, price, revision=0, closed=True):
        trades = [trade for trade in came if usable(trade)]
        with localcontext(prec=200):
            volume = sum((t.size for t in trades), Decimal(0))
            quote = sum((t.size * t.price for t in trades), Decimal(0))
            buys = [t for t in trades if t.side == "buy"]
            buy_volume = sum((t.size for t in buys), Decimal(0))
            buy_quote = sum((t.size * t.price for t in buys), Decimal(0))
        prices = [t.price for t in trades] or [price]
        sided = not trades or first(trades).side is not None
        return Bar(
            "acme",
            lane[0],
            start,
            recv,
            lane[1],
            first(trades).price if trades else price,
            max(prices),
            min(prices),
            last(trades).price if trades else price,
            volume,
            quote,
            buy_volume if sided else None,
            buy_quote if sided else None,
            len(trades),
            closed,
            closed and self.complete(lane, start, came),
            revision,
            "bars",
            "built_from_trades" if trades else "empty",
        )


def first(trades):
    """In order of (ts, id); the ids here are all numbers."""
    return min((t for t in trades if usable(t)), key=lambda t: (t.ts, t.id))


def last(trades):
    return max((t for t in trades if usable(t)), key=lambda t: (t.ts, t.id))


def ordered(bars):
    return sorted(
        bars, key=lambda bar: (bar.ts + LENGTHS[bar.interval], LENGTHS[bar.interval], bar.symbol)
    )


def told(events, bad):
    """Events with every reject as its rule and its trade; what is not finite goes to *bad*."""
    bad += [e.event for e in events if type(e) is Reject and e.rule == "not_finite"]
    rest = [e for e in events if type(e) is not Reject or e.rule != "not_finite"]
    return [(e.rule, e.event) if type(e) is Reject else e for e in rest]


PRICES = [Decimal(text) for text in ("1", "1.5", "0.99", "2.000000000000000001", "NaN", "Infinity")]
SIZES = [Decimal(text) for text in ("1", "0.000000000000000001", "123456789012345678901234567890")]
STEPS = [0, 0, 1, 40, 300, 700, 999, 1000, 2500, -1, -300, -1100, -4000, 9_000, 70_000]


def session(seed, length):
    """Return events, and ticks as plain numbers. A seed, because drawing each field takes too long."""
    draw = random.Random(seed).choice
    ts = BEGIN
    recv = BEGIN + draw([0, 1_500 * MS, -1_500 * MS])
    acts = []
    for number in range(length):
        symbol = draw(["A/B", "A/B", "C/D"])
        recv += draw([0, 0, 1, 100, 600, 1500, 61_000]) * MS
        kind = draw(["trade"] * 12 + ["tick", "tick", "gap", "quote"])
        if kind == "tick":
            acts.append(recv + draw([0, 500, 2000, 5000]) * MS)
        elif kind == "quote":
            acts.append(Quote("acme", symbol, ts, recv, *[Decimal(1)] * 4))
        elif kind == "gap":
            acts.append(hole(draw, acts, symbol, ts, recv))
        else:
            step = draw(STEPS) * MS
            ts += max(step, 0) * draw([0, 1, 1])
            price, size = draw(PRICES * 3 + PRICES[:4]), draw(SIZES)
            side, origin = draw(["buy", "sell", None]), draw(["live"] * 5 + ["backfill", "history"])
            channel = draw(["trades"] * 5 + ["agg_trades", "liquidations"])
            at, id_ = ts + min(step, 0), draw([number, -number])
            acts.append(Trade("acme", symbol, at, recv, price, size, side, id_, channel, origin))
    return acts


def hole(draw, acts, symbol, ts, recv):
    verdict = draw(["open", "partial", "filled"])
    if verdict == "filled" and (holes := [act for act in acts if type(act) is Gap]):
        old = draw(holes)
        where, since, until, channel = old.symbol, old.since, old.until, old.channel
    else:
        since = ts + draw(STEPS) * MS
        while any(type(act) is Gap and act.since == since for act in acts):
            since += 1  # one gap has one begin: it is its identity
        until = since + draw([0, 1, 900, 1000, 5000]) * MS
        where, channel = draw([symbol, ""]), draw(["", "trades", "agg_trades", "book"])
    return Gap("acme", where, until, recv, since, until, "x", None, verdict, channel)


SESSIONS = st.builds(session, st.integers(0, 1 << 32), st.integers(1, 60))

SETTINGS = st.builds(
    Settings,
    every=st.sampled_from([("1s",), ("1s", "3s", "1m"), ("3s",)]),
    lateness=st.sampled_from([0, 500 * MS, 2500 * MS]),
    revise=st.booleans(),
    keep=st.sampled_from([0, 1, 3, 100]),
    empty=st.sampled_from(["skip", "fill"]),
    fill_limit=st.sampled_from([2, 1000]),
    history=st.booleans(),
    max_ahead=st.just("365d"),  # the reference believes every time
)


def numbered(numbers):
    """Return what makes `TradeBatch` of every batch that can be one, as a parser does."""

    def mark(batch):
        if any(type(event) is not Trade or event.origin != "live" for event in batch):
            return batch
        keys = [(event.symbol, event.channel) for event in batch]
        return TradeBatch(batch, [numbers.setdefault(key, len(numbers)) for key in keys])

    return mark


def run(stage, acts, sizes, mark=list):
    """Send *acts* through *stage* in batches of the *sizes* that come round; ticks end a batch."""
    out, batch, turn = [], [], 0
    for act in acts:
        if type(act) is int:
            out += stage(mark(batch)) if batch else []
            batch = []
            if stage.due is not None and stage.due <= act:
                out += stage.tick(act)
                assert stage.due is None or stage.due > act
            continue
        batch.append(act)
        if len(batch) >= sizes[turn % len(sizes)]:
            out += stage(mark(batch))
            batch, turn = [], turn + 1
    out += stage(mark(batch))
    return out + stage.flush()


#: Here a trade in order closes an interval that cannot be filled.
UNFILLABLE = Settings(every=("1s",), lateness=500 * MS, keep=3, empty="fill", fill_limit=2)


@given(SESSIONS, SETTINGS)
@example(session(213, 17), attrs.evolve(UNFILLABLE, max_ahead="365d"))
@budget(max_examples=400, deadline=None)
def test_bars_equal_those_of_a_naive_reference_implementation(acts, settings):
    stage, naive, bad = Bars(settings), Naive(settings), []
    for number, act in enumerate(acts):
        if type(act) is int:
            due = naive.due()
            expected = naive.tick(act) if due is not None and due <= act else []
            assert stage.due == (due if due is not None and due < 1 << 61 else None)
            got = stage.tick(act) if stage.due is not None and stage.due <= act else []
        else:
            expected, got = naive.event(act), stage([act])

        assert told(got, bad) == expected, number
    assert told(stage.flush(), bad) == naive.flush()
    assert sorted(map(id, bad)) == sorted(map(id, naive.bad))


@given(SESSIONS, SETTINGS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
@budget(max_examples=150, deadline=None)
def test_the_output_does_not_depend_on_batch_boundaries(acts, settings, sizes):
    batched, lone = run(Bars(settings), acts, sizes), run(Bars(settings), acts, [1])

    assert list(map(repr, batched)) == list(map(repr, lone))  # NaN is not equal to itself


def of_one_read(acts, sizes):
    """Stamp what comes in one batch with one `recv`, as one read of a socket does."""
    out, stamp, count, turn = [], None, 0, 0
    for act in acts:
        if type(act) is int:
            stamp, count = None, 0
        else:
            stamp = act.recv if stamp is None else stamp
            act, count = attrs.evolve(act, recv=stamp), count + 1
            if count >= sizes[turn % len(sizes)]:
                stamp, count, turn = None, 0, turn + 1
        out.append(act)
    return out


@given(SESSIONS, SETTINGS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
@budget(max_examples=200, deadline=None)
def test_trade_batches_with_subscription_ids_give_the_same_output(acts, settings, sizes):
    acts = of_one_read(acts, sizes)
    told_apart = run(Bars(settings), acts, sizes, numbered({}))

    assert list(map(repr, told_apart)) == list(map(repr, run(Bars(settings), acts, [1])))


@given(SESSIONS, SETTINGS)
@budget(max_examples=100, deadline=None)
def test_every_event_passes_in_order_and_each_bar_is_first_sent_once_in_order(acts, settings):
    out = run(Bars(settings), acts, [7])

    sent = [act for act in acts if type(act) is not int]
    passed = [e for e in out if type(e) not in (Bar, Reject)]
    assert len(passed) == len(sent)
    assert all(a is b for a, b in zip(passed, sent, strict=True))
    starts = defaultdict(list)
    for bar in out:
        if type(bar) is Bar and bar.closed and not bar.revision:
            starts[bar.symbol, bar.interval].append(bar.ts)
    assert all(a < b for some in starts.values() for a, b in pairwise(some))
