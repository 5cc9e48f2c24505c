"""The stage against a slow one that does the same in the plainest way, over random streams."""

from collections import Counter
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import Gap, Reject, Trade
from tapeloom.plugin import TradeBatch, UnfilledGaps
from tapeloom_quality import Settings
from tapeloom_quality._stage import quality

SECOND = 10**9
LIMIT, CONFIRM, HOLD, BACK = Fraction(1, 10), 3, 5 * SECOND, SECOND


class Plain:
    """One symbol, every rule, no shortcuts: every id is kept and every price divided."""

    def __init__(self):
        self.ids, self.newest, self.price = set(), None, None
        self.suspect, self.agreed, self.opened = None, 0, 0
        self.turned, self.turned_ts = 0, 0
        self.run, self.tried = 0, None
        self.first = self.next = None

    def judge(self, trade):
        newer = self.newest is None or trade.ts > self.newest
        kind, missing = self.see(trade.id, newer)
        gap = ["gap"] * bool(missing)
        if not trade.price.is_finite() or trade.price <= 0:
            return [*gap, "price"]
        if not trade.size.is_finite() or trade.size <= 0:
            return [*gap, "size"]
        if kind in ("duplicate", "order"):
            return [*gap, kind]
        if kind == "late" and not newer:
            return ["trade"]
        return [*gap, self.untimely(trade.ts, Fraction(trade.price))]

    def see(self, number, newer):
        if self.next is None or number >= self.next:
            missing = 0 if self.next is None else number - self.next
            self.first = number if self.first is None else self.first
            self.next, self.run = number + 1, 0
            self.ids.add(number)
            return "fresh", missing
        seen, below = number in self.ids, number < self.first
        if newer:
            self.run = self.run + 1 if self.run and number == self.tried + 1 else 1
            self.tried = number
            if self.run >= CONFIRM:
                self.anew(number, gone=seen or below)
                return "fresh", 0
        if seen:
            return "duplicate", 0
        if below and newer:
            return "order", 0
        self.first = min(self.first, number)
        self.ids.add(number)
        return "late", 0

    def anew(self, number, *, gone):
        if gone:
            self.first = number - self.run + 1
            self.ids = set(range(self.first, number + 1))
        self.ids = {one for one in self.ids if one <= number} | {number}
        self.next, self.run = number + 1, 0

    def untimely(self, ts, price):
        if self.newest is not None and ts < self.newest - BACK:
            self.turned = self.turned + 1 if self.turned and ts >= self.turned_ts - BACK else 1
            self.turned_ts = ts
            if self.turned < CONFIRM:
                return "backwards"
            self.newest = ts
        if self.price is not None and abs(price / self.price - 1) > LIMIT:
            if self.suspect is None:
                self.agreed, self.opened = 1, ts
            elif abs(price / self.suspect - 1) <= LIMIT:
                self.agreed += 1
            else:
                self.agreed = 1
            self.suspect = price
            if self.agreed < CONFIRM and ts - self.opened < HOLD:
                return "jump"
        self.newest = ts if self.newest is None else max(ts, self.newest)
        self.price, self.suspect, self.agreed, self.turned = price, None, 0, 0
        return "trade"


PRICES = st.one_of(
    st.integers(9900, 10100).map(lambda cents: Decimal(cents) / 100),
    st.sampled_from(
        [Decimal(text) for text in ("89", "90", "110", "111", "121", "133.1", "150", "151")]
    ),
    st.sampled_from(
        [Decimal(text) for text in ("0", "-1", "NaN", "sNaN", "Infinity", "1E+30", "1E-30")]
    ),
)
SIZES = st.sampled_from(
    [Decimal(text) for text in ("1", "1", "1", "1", "1", "0.1", "0", "-1", "NaN")]
)
STEPS = st.sampled_from([1, 1, 1, 1, 1, 1, 1, 2, 5, 0, 0, -1, -2, -3, -40, 40])
TIMES = st.sampled_from([0, 1, 1, 1, 1, 20, 300, -1, -900, -1100, -20_000, 20_000, 6_000])
ROWS = st.lists(st.tuples(STEPS, PRICES, SIZES, TIMES), max_size=60)


def trades(rows, symbol="BTC/USDT"):
    number, at, out = 1000, 10**6, []
    for step, price, size, later in rows:
        number += step
        at += later
        ts = at * 1_000_000
        out.append(Trade("v", symbol, ts, ts, price, size, "buy", number))
    return out


def words(events):
    return [event.rule if type(event) is Reject else event.type for event in events]


def stage():
    counters = Counter()
    return quality(Settings(), counters, UnfilledGaps("v")), counters


@settings(max_examples=400, deadline=None)
@given(ROWS)
def test_the_stage_agrees_with_a_naive_implementation(rows):
    batch = trades(rows)
    plain = Plain()
    run, counters = stage()

    out = run(batch)

    assert words(out) == [word for trade in batch for word in plain.judge(trade)]
    rejected = [event.rule for event in out if type(event) is Reject]
    assert {name: number for name, number in counters.items() if "reject" in name} == {
        f"reject.{rule}": rejected.count(rule) for rule in set(rejected)
    }
    missing = sum(event.missing for event in out if type(event) is Gap)
    assert counters["missing"] == missing


@settings(max_examples=150, deadline=None)
@given(ROWS, ROWS, st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_the_output_does_not_depend_on_batch_boundaries(rows, others, cuts):
    a, b = trades(rows), trades(others, "ETH/USDT")
    mixed = [event for n in range(max(len(a), len(b))) for event in (*a[n : n + 1], *b[n : n + 1])]
    whole, _ = stage()
    parts, _ = stage()
    pieces, start = [], 0
    while start < len(mixed):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(mixed[start : start + size])
        start += size

    assert repr(whole(mixed)) == repr([event for piece in pieces for event in parts(piece)])


@settings(max_examples=200, deadline=None)
@given(ROWS, ROWS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_trade_batches_with_subscription_ids_give_the_same_output(rows, others, cuts):
    a, b = trades(rows), trades(others, "ETH/USDT")
    mixed = [event for n in range(max(len(a), len(b))) for event in (*a[n : n + 1], *b[n : n + 1])]
    plain, counted = stage()
    quick, counted_quickly = stage()
    expected = [event for one in mixed for event in plain([one])]
    got, start, turn = [], 0, 0
    while start < len(mixed):
        piece = mixed[start : start + cuts[turn % len(cuts)]]
        start, turn = start + len(piece), turn + 1
        if all(type(one) is Trade and one.origin == "live" for one in piece):
            piece = TradeBatch(piece, [int(one.symbol == "ETH/USDT") for one in piece])
        got += quick(piece)

    assert repr(got) == repr(expected)
    assert counted_quickly == counted


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_no_event_is_lost_or_invented(rows):
    batch = trades(rows)
    run, _ = stage()

    out = run(batch)

    inner = [
        event.event if type(event) is Reject else event for event in out if type(event) is not Gap
    ]
    assert [id(event) for event in inner] == [id(event) for event in batch]


@settings(max_examples=150, deadline=None)
@given(ROWS, ROWS)
def test_symbols_do_not_affect_each_other(rows, others):
    a, b = trades(rows), trades(others, "ETH/USDT")
    mixed = [event for n in range(max(len(a), len(b))) for event in (*a[n : n + 1], *b[n : n + 1])]
    alone, _ = stage()
    together, _ = stage()

    out = [event for event in together(mixed) if event.symbol == "BTC/USDT"]

    assert repr(out) == repr(alone(a))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.decimals(min_value="0.000001", max_value="1000000", places=6), max_size=80))
def test_no_pair_of_good_prices_is_further_apart_than_the_limit(prices):
    batch = trades([(1, price, Decimal(1), 1) for price in prices if price > 0])
    run, _ = stage()

    good, open_since = None, 0
    for event in run(batch):
        if type(event) is Reject:
            open_since += 1
            continue
        far = good is not None and abs(event.price - good) > good / 10
        assert not far or open_since >= CONFIRM - 1
        good, open_since = event.price, 0
