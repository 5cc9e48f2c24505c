"""GapTracker and GapFill beside a model: random histories of losses, mute symbols, reorder and REST.

`python core/tests/test_gap_model.py 100000` runs that many histories and prints the first that fails.
"""

from __future__ import annotations

import sys
from collections import Counter
from decimal import Decimal
from random import Random

from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tapeloom import Event, Gap, Trade
from tapeloom._gaps.gap_fill import GapFill
from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom.plugin import HistoryQuery, Loss, Request, Subscription

ONE = Decimal(1)
MS, SECOND = 1_000_000, 1_000_000_000
SYMBOLS = ("A/USD", "B/USD")


class Clock:
    """A clock that a history advances."""

    now = 1_000 * SECOND

    def time_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / SECOND

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


@define
class Symbol:
    """One symbol at the venue, and what became of its trades."""

    subscription: Subscription
    trades: list[Trade] = field(factory=list)  #: all that were made
    wire: list[Trade] = field(factory=list)  #: sent and not read yet
    mute: bool = False
    delivered: Counter[int] = field(factory=Counter)  #: by number
    next_id: int | None = None  #: what the stage that checks the sequence expects


class History:
    """A venue with two symbols, a connection, a REST interface, and a tracker that is told all of it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.clock = Clock()
        self.numbered = random.random() < 0.7
        self.checks_sequence = self.numbered and random.random() < 0.7
        self.order = random.choice(
            ["id", "time", "newest"] if self.numbered else ["time", "newest"]
        )
        self.page = random.randint(3, 30)
        self.never_answered = random.random() * 0.3 if random.random() < 0.5 else 0.0
        self.counters: Counter[str] = Counter()
        self.tracker = GapTracker("acme", self.clock, self.counters)
        self.symbols = {s: Symbol(Subscription(s, "trades")) for s in SYMBOLS}
        self.queue: list[GapFill] = []
        self.gaps: list[Gap] = []
        self.absent: set[tuple[str, int]] = set()  #: trades that the REST interface does not have
        self.connected = True
        if random.random() < 0.85:
            self.tracker.request = self.request
            self.tracker.enqueue = self.queue.append
        self.tracker.live.update(state.subscription for state in self.symbols.values())
        for name in SYMBOLS:
            self.make(name, lost=False)
        self.read()

    def request(self, query: HistoryQuery) -> Request | None:
        paged = self.order != "newest"
        if self.order == "id" and query.after_id is None:
            return None
        return Request(url="rest", paged=paged)

    # ------------------------------------------------------------------------------- the venue's side

    def make(self, name: str, *, lost: bool) -> None:
        state, random = self.symbols[name], self.random
        self.clock.now += random.choice([0, 0, 1, 5, 300]) * MS
        number = len(state.trades) + 1
        ts = self.clock.now // MS * MS
        trade_id = number if self.numbered else f"x{number * 7919 % 1_000_003}"
        trade = Trade("acme", name, ts, 0, Decimal(number), ONE, None, trade_id, "trades")
        state.trades.append(trade)
        if random.random() < self.never_answered:
            self.absent.add((name, number))
        if self.connected and not state.mute and not lost:
            state.wire.append(trade)

    def rows(self, query: HistoryQuery) -> list[Event]:
        """Answer a query as venues do: from an id on, in a range of time, or with the newest."""
        random, state = self.random, self.symbols[query.symbol]
        known = [t for t in state.trades if (query.symbol, int(t.price)) not in self.absent]
        if self.order == "id":
            assert query.after_id is not None
            rows = [t for t in known if t.id > query.after_id][: self.page]  # type: ignore[operator]
        elif self.order == "time":
            assert query.since is not None
            assert query.until is not None
            rows = [t for t in known if query.since <= t.ts <= query.until]
            size = self.page + max(Counter(t.ts for t in rows).values(), default=0)
            rows = rows[:size]
        else:
            rows = known[: -self.page - 1 : -1]
        if rows and random.random() < 0.1:
            rows.append(random.choice(rows))  # a row twice
        return list(rows)

    # ----------------------------------------------------------------------------- the consumer's side

    def deliver(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is Gap:
                self.gaps.append(event)
            elif type(event) is Trade:
                self.symbols[event.symbol].delivered[int(event.price)] += 1

    def read(self) -> None:
        """Read what is on the wire, perhaps out of order, and let the stage check the sequence."""
        batch: list[Event] = []
        for state in self.symbols.values():
            wire, state.wire = state.wire, []
            if len(wire) > 1 and self.random.random() < 0.2:
                place = self.random.randrange(len(wire) - 1)
                wire[place], wire[place + 1] = wire[place + 1], wire[place]
            batch += wire
        if not batch:
            return
        for event in batch:
            event.recv = self.clock.now  # type: ignore[misc]
        processed = self.tracker.process(batch)
        self.tracker.last_seen.add(batch)
        self.deliver(self.check_sequence(processed) if self.checks_sequence else processed)

    def check_sequence(self, events: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if type(event) is Trade and type(event.id) is int:
                state = self.symbols[event.symbol]
                expected = state.next_id or event.id
                if event.id > expected:
                    loss = Loss(
                        event.symbol, event.channel, since=state.trades[expected - 2].ts,
                        until=event.ts, recv=event.recv, after_id=expected - 1, before_id=event.id,
                    )  # fmt: skip
                    out += self.tracker.open(loss)
                state.next_id = max(expected, event.id + 1)
            out.append(event)
        return out

    def cut(self) -> None:
        for state in self.symbols.values():
            state.wire.clear()
        if self.connected:
            subscriptions = [state.subscription for state in self.symbols.values()]
            self.tracker.connection_lost(subscriptions, self.clock.now)
        self.connected = False

    def reconnect(self) -> None:
        if not self.connected:
            self.clock.now += SECOND  # a reply is no faster than the data
            self.connected = True
            self.confirm(list(self.symbols.values()))

    def confirm(self, states: list[Symbol]) -> None:
        subscriptions = [state.subscription for state in states]
        self.tracker.confirmed(subscriptions, self.clock.now, self.clock.monotonic())

    def stall(self, name: str) -> None:
        """Find that a mute symbol has stalled, and subscribe to it again."""
        state = self.symbols[name]
        if self.connected and state.mute:
            self.read()  # it is silent: nothing of it is on its way
            self.tracker.stalled(state.subscription, self.clock.now, 5.0)
            state.mute = self.random.random() < 0.5
            if self.random.random() < 0.8:
                self.confirm([state])

    def turn_mute(self, name: str) -> None:
        """Make a symbol mute, or heal it if its silence was noticed or its ids will show it."""
        self.read()
        state = self.symbols[name]
        watched = self.tracker.watched.get(state.subscription)
        noticed = watched is not None and watched.open is not None
        state.mute = not state.mute or not (self.checks_sequence or noticed)

    def wait(self) -> None:
        self.read()  # a read is not delayed for so long
        self.clock.now += self.random.choice([1, 6, 70]) * SECOND
        self.deliver(self.tracker.overdue(self.clock.monotonic()))

    def answer(self) -> None:
        if not self.queue:
            return
        fill = self.queue.pop(0)
        query = fill.next_query()
        assert query is not None or not fill.waiting
        if query is not None:
            request = self.request(query)
            rows = self.rows(query)
            if self.random.random() < 0.3:  # the stream goes on meanwhile
                self.make(self.random.choice(SYMBOLS), lost=False)
                self.read()
            if request is None or self.random.random() < 0.05:
                self.deliver(fill.give_up(self.clock.now))
            else:
                self.deliver(fill.process(rows, request, self.clock.now))
        fill.queued = bool(fill.waiting)
        if fill.queued:
            self.queue.append(fill)

    # --------------------------------------------------------------------------------------- the whole

    def run(self) -> None:
        random = self.random
        for _ in range(random.randint(5, 120)):
            match random.randrange(20):
                case 0:
                    self.cut()
                case 1 | 2:
                    self.reconnect()
                case 3:
                    self.turn_mute(random.choice(SYMBOLS))
                case 4:
                    self.stall(random.choice(SYMBOLS))
                case 5:
                    self.wait()
                case 6 | 7 | 8:
                    self.answer()
                case 9 | 10 | 11 | 12:
                    self.read()
                case _:
                    lost = self.checks_sequence and random.random() < 0.15
                    self.make(random.choice(SYMBOLS), lost=lost)
        self.read()
        #: Until when the symbols with an open gap have been acknowledged again, if they have.
        self.open_at_end = {
            key[0]: watched.open.confirmed
            for key, watched in self.tracker.watched.items()
            if watched.open is not None
        }
        self.clock.now += 100 * SECOND  # more than the clocks differ
        self.deliver(self.tracker.close_all(self.clock.now))

    def check(self) -> None:
        last: dict[tuple[str, int, object], Gap] = {}
        for gap in self.gaps:
            last[gap.symbol, gap.since, gap.after_id] = gap
        for gap in last.values():
            assert gap.state != "open", f"no final state: {gap}"
            assert gap.since <= gap.until, gap
        for name, state in self.symbols.items():
            twice = [number for number, count in state.delivered.items() if count > 1]
            assert not twice, f"{name}: {twice} were delivered twice"
            self.check_losses(state, [gap for gap in last.values() if gap.symbol == name])
        assert self.counters["gaps"] == len(last)

    def check_losses(self, state: Symbol, gaps: list[Gap]) -> None:
        newest = max(state.delivered)
        for trade in state.trades:
            number, name = int(trade.price), state.subscription.symbol
            if state.delivered[number]:
                continue
            if number > newest and name not in self.open_at_end:
                continue  # lost at the end of a connection that lives: nothing shows it
            confirmed = self.open_at_end.get(name)
            if confirmed is not None and trade.ts > confirmed[0]:
                continue  # it stalled anew, and nothing has found it yet
            inside = [gap for gap in gaps if self.holds(gap, trade)]
            # Text ids do not tell in which of two gaps a trade lies whose time is the end of both.
            one_each = len(inside) == 1 or (inside and not self.numbered)
            assert one_each, f"{name}: {trade} is lost, in {len(inside)} gaps: {inside}"
            # That REST lacks a row shows only by numbers on both sides of it.
            counted = self.numbered and inside[0].before_id is not None
            if counted or (name, number) not in self.absent:
                states = {gap.state for gap in inside}
                assert states != {"filled"}, f"{trade} is lost, but filled: {inside[0]}"
        for gap in gaps:
            if type(gap.before_id) is int and type(gap.after_id) is int:
                within = range(gap.after_id + 1, gap.before_id)
                lost = sum(not state.delivered[number] for number in within)
                # What comes late is counted, and reported once nothing is missing any more.
                assert gap.missing is not None
                assert lost <= gap.missing, f"{lost} are missing: {gap}"
                assert bool(lost) == bool(gap.missing), f"{lost} are missing: {gap}"

    def holds(self, gap: Gap, trade: Trade) -> bool:
        if type(trade.id) is int and type(gap.after_id) is int:
            if type(gap.before_id) is int:
                return gap.after_id < trade.id < gap.before_id
            return gap.after_id < trade.id and trade.ts <= gap.until
        return gap.since <= trade.ts <= gap.until


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**64))
def test_in_any_history_nothing_is_doubled_and_each_lost_trade_is_in_one_gap(seed: int) -> None:
    history = History(Random(seed))
    history.run()
    history.check()


def main(count: int) -> None:
    """Run *count* histories."""
    for seed in range(count):
        history = History(Random(seed))
        try:
            history.run()
            history.check()
        except Exception as error:
            raise SystemExit(f"history {seed}: {type(error).__name__}: {error}") from error
    print(f"{count:,} histories hold")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
