"""The ground truth: the market's events, the messages sent on each connection, the injected faults.

It is kept in memory, or written to a file that `truth_file` reads.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from attrs import asdict, define, frozen

from .bars import end_of, start_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from .instrument import Instrument
    from .market import SimulatedMarket
    from .server_api import MarketBar, MarketStep, MarketTrade, TopOfBook

__all__ = ["ConnectionRecord", "InjectedFault", "SentStream", "TrueQuote", "TrueTrade", "Truth"]


class TrueQuote(NamedTuple):
    """A best bid and ask in decimal units. `sequence` is the id of the book update."""

    ts: int
    sequence: int
    bid: Decimal
    bid_size: Decimal
    ask: Decimal
    ask_size: Decimal


class TrueTrade(NamedTuple):
    """A trade in decimal units."""

    id: int
    price: Decimal
    size: Decimal
    side: str
    ts: int
    aggregate_id: int


@frozen
class InjectedFault:
    """A fault that was injected, at the market's time `ts`."""

    kind: str
    ts: int
    connection: int = 0
    stream: str = ""
    symbol: str = ""
    detail: str = ""


@define
class ConnectionRecord:
    """A streaming connection. `ended` is how it ended, and empty while it is open."""

    connection: int
    path: str
    ts: int
    until: int | None = None
    ended: str = ""


@define
class SentStream:
    """One stream on one connection: its period and how many texts were sent.

    `first_id` is the id of the first trade after the start, `last_id` that of the last before the end.
    `texts` are the texts sent, without the venue's envelope; None if they are not kept.
    """

    connection: int
    stream: str
    symbol: str
    channel: str
    since: int
    first_id: int
    until: int | None = None
    last_id: int | None = None
    count: int = 0
    texts: list[str] | None = None


class Truth:
    """Records what really happened. Lists grow until the simulation ends; `keep=False` keeps no events."""

    def __init__(
        self, market: SimulatedMarket, *, keep: bool = True, log: IO[str] | None = None
    ) -> None:
        self._market, self._keep, self._log = market, keep, log
        self.market_trades: dict[str, list[MarketTrade]] = {
            symbol: [] for symbol in market.instruments
        }
        self.tops_of_book: dict[str, list[tuple[int, int, TopOfBook]]] = {
            symbol: [] for symbol in market.instruments
        }
        #: The best bid, its size, the best ask, its size, as the market began.
        self.first_quote = {
            symbol: _best(instrument) for symbol, instrument in market.instruments.items()
        }
        self.trade_count = 0  #: trades made
        self.faults: list[InjectedFault] = []
        self.connections: list[ConnectionRecord] = []
        self.sent: list[SentStream] = []
        self.rest_calls: list[tuple[str, int]] = []  #: REST calls: address and status

    # ------------------------------------------------------------------------------------ writing

    def record_steps(self, steps: Iterable[MarketStep]) -> None:
        """Record the steps of the market."""
        trades, tops = self.market_trades, self.tops_of_book
        for step in steps:
            self.trade_count += len(step.trades)
            if self._keep:
                trades[step.symbol] += step.trades
                if step.top_of_book is not None:
                    tops[step.symbol].append((step.ts, step.last_id, step.top_of_book))
        if self._log is not None:
            self._log.writelines(map(self._lines, steps))

    def _lines(self, step: MarketStep) -> str:
        instrument = self._market.instruments[step.symbol]
        rows: list[dict[str, Any]] = [
            {"type": "trade", "symbol": step.symbol, "ts": trade.ts, "id": trade.id,
             "price": str(trade.price * instrument.tick), "size": str(trade.size * instrument.lot),
             "side": "buy" if trade.is_buy else "sell", "aggregate": trade.aggregate_id}
            for trade in step.trades
        ]  # fmt: skip
        if step.top_of_book is not None:
            bid, bid_size, ask, ask_size = step.top_of_book
            rows.append(
                {"type": "quote", "symbol": step.symbol, "ts": step.ts, "sequence": step.last_id,
                 "bid": str(bid * instrument.tick), "bid_size": str(bid_size * instrument.lot),
                 "ask": str(ask * instrument.tick), "ask_size": str(ask_size * instrument.lot)}
            )  # fmt: skip
        return "".join(json.dumps(row) + "\n" for row in rows)

    def _write(self, kind: str, item: Any) -> None:
        if self._log is not None:
            print(json.dumps({"type": kind} | item), file=self._log)

    def record_fault(self, injected: InjectedFault) -> None:
        """Record an injected fault."""
        self.faults.append(injected)
        self._write("fault", asdict(injected))

    def record_opened(self, connection: int, path: str) -> ConnectionRecord:
        """Record that a connection was opened."""
        opened = ConnectionRecord(connection, path, self._market.now)
        self.connections.append(opened)
        self._write("opened", {"connection": connection, "path": path, "ts": opened.ts})
        return opened

    def record_ended(self, opened: ConnectionRecord, how: str) -> None:
        """Record that a connection has ended."""
        opened.until, opened.ended = self._market.now, how
        self._write("ended", {"connection": opened.connection, "how": how, "ts": opened.until})

    def record_subscribed(
        self, connection: int, stream: str, symbol: str, channel: str
    ) -> SentStream:
        """Record that a stream was subscribed on a connection."""
        texts: list[str] | None = [] if self._keep else None
        sent = SentStream(
            connection,
            stream,
            symbol,
            channel,
            self._market.now,
            self._last(symbol) + 1,
            texts=texts,
        )
        self.sent.append(sent)
        self._write(
            "followed",
            {"connection": connection, "stream": stream, "symbol": symbol, "channel": channel,
             "ts": sent.since, "first": sent.first_id},
        )  # fmt: skip
        return sent

    def record_unsubscribed(self, sent: SentStream) -> None:
        """Record that a stream was unsubscribed."""
        sent.until, sent.last_id = self._market.now, self._last(sent.symbol)
        self._write(
            "left",
            {"connection": sent.connection, "stream": sent.stream, "symbol": sent.symbol,
             "channel": sent.channel, "ts": sent.until, "last": sent.last_id, "count": sent.count},
        )  # fmt: skip

    def _last(self, symbol: str) -> int:
        instrument = self._market.instruments.get(symbol)
        return instrument.last_trade.id if instrument and instrument.last_trade else 0

    def write_books(self) -> None:
        """Write the final books to the file."""
        for symbol in self._market.instruments if self._log is not None else ():
            bids, asks = self.book(symbol)
            levels = {"bids": [[str(p), str(s)] for p, s in bids.items()],
                      "asks": [[str(p), str(s)] for p, s in asks.items()]}  # fmt: skip
            self._write("book", {"symbol": symbol, "ts": self._market.now, **levels})

    # ------------------------------------------------------------------------------------ reading

    def trades(self, symbol: str) -> list[TrueTrade]:
        """Return every trade of *symbol*, in order."""
        instrument = self._market.instruments[symbol]
        tick, lot = instrument.tick, instrument.lot
        return [
            TrueTrade(
                f.id,
                f.price * tick,
                f.size * lot,
                "buy" if f.is_buy else "sell",
                f.ts,
                f.aggregate_id,
            )
            for f in self.market_trades[symbol]
        ]

    def quotes(self, symbol: str) -> list[TrueQuote]:
        """Return every change of the best bid and ask of *symbol*, in order.

        The quote at the start of the market is not among them: it is in `first_quote`.
        """
        instrument = self._market.instruments[symbol]
        tick, lot = instrument.tick, instrument.lot
        return [
            TrueQuote(ts, last, b.bid * tick, b.bid_size * lot, b.ask * tick, b.ask_size * lot)
            for ts, last, b in self.tops_of_book[symbol]
        ]

    def book(self, symbol: str) -> tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]:
        """Return the bids and asks as they are now, best first."""
        instrument = self._market.instruments[symbol]
        snapshot = instrument.book_snapshot(1_000_000)
        return (
            {price * instrument.tick: size * instrument.lot for price, size in snapshot.bids},
            {price * instrument.tick: size * instrument.lot for price, size in snapshot.asks},
        )

    def closed_bars(self, symbol: str, interval: str) -> list[MarketBar]:
        """Return the bars of *symbol* that have ended, in ticks and lots."""
        now = self._market.now
        last = start_of(interval, now)
        first = start_of(interval, self._market.epoch)  # it may have begun before the first trade
        found = self._market.instruments[symbol].bars(interval, first, last, 1_000_000)
        return [bar for bar in found if end_of(interval, bar.start) <= now]

    def fault_counts(self) -> dict[str, int]:
        """Return how often each kind of fault was injected."""
        counts: defaultdict[str, int] = defaultdict(int)
        for fault in self.faults:
            counts[fault.kind] += 1
        return dict(counts)


def _best(instrument: Instrument) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    bid, bid_size, ask, ask_size = instrument.top_of_book()
    return (
        bid * instrument.tick,
        bid_size * instrument.lot,
        ask * instrument.tick,
        ask_size * instrument.lot,
    )
