"""The gateway's streams: one per request of a client, whose id is in every message."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from tapeloom_simulator.server_api import MarketBar, MarketStep, SimulatedInstrument

    class _Client(Protocol):
        disconnected: bool

        def corrupt(self, fault: str, stream: ClientStream, text: str) -> list[str] | None: ...


__all__ = [
    "BarStream",
    "ClientStream",
    "DepthStream",
    "Level1Stream",
    "QuoteStream",
    "TradeStream",
    "average",
    "decimal_text",
    "error",
    "message",
]

#: Nanoseconds in a second.
_SECOND = 1_000_000_000


def message(*fields: object) -> str:
    """Return a message: each field is followed by a NUL."""
    return "".join(f"{field}\0" for field in fields)


def error(request: str, code: int, text: str) -> str:
    """Return an error message, or a notice if *request* is -1."""
    return message(4, 2, request, code, text, "")


def decimal_text(units: int | Decimal, step: Decimal) -> str:
    """Return *units* steps as decimal text with the digits of the step."""
    return format(units * step, "f")


def average(bar: MarketBar, instrument: SimulatedInstrument) -> str:
    """Return the volume-weighted average price with six digits more than prices have."""
    if not bar.volume:
        return decimal_text(bar.close, instrument.tick)
    exact = Decimal(bar.quote_volume) / bar.volume * instrument.tick
    return format(exact.quantize(instrument.tick.scaleb(-6)), "f")


class ClientStream:
    """The stream of one symbol for one request of one client."""

    kind_name, interval_ns = "", 0

    def __init__(
        self, session: _Client, request: str, instrument: SimulatedInstrument, kind: str = ""
    ) -> None:
        self.session, self.request, self.kind = session, request, kind
        self.ended = False
        self.symbol, self.channel = instrument.symbol, self.kind_name
        self.name = f"{instrument.symbol} {self.kind_name} {request}"
        self.instrument = instrument

    def start(self) -> None:
        """Start the stream, which has no state of its own."""

    def first(self) -> list[str]:
        """Return the messages that the client is sent as soon as it subscribes."""
        return []

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the messages that a market step causes; none during an outage."""
        return () if self.session.disconnected or self.ended else self.on_step(step)

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the messages that are due at *now*; none during an outage."""
        return () if self.session.disconnected or self.ended else self.on_tick(now)

    def on_step(self, step: MarketStep) -> Sequence[str]:
        """Return the messages that a market step causes."""
        return ()

    def on_tick(self, now: int) -> Sequence[str]:
        """Return the messages that are due at *now*."""
        return ()

    def corrupt(self, fault: str, text: str) -> list[str] | None:
        """Return the messages that a fault makes of *text*; None if it does not apply."""
        fields = text.split("\0")[:-1]
        if fault == "missing_fields":
            return [message(*fields[: len(fields) // 2], *fields[len(fields) // 2 + 1 :])]
        if fields[0] != "99":
            return None
        if fault == "ib_halt":
            halt = message(*fields[:4], 0, 0, 1, *fields[7:])
            return [halt, halt, text]
        if fault == "empty_side":  # the bid
            return [message(*fields[:4], -1, fields[5], 0, *fields[7:])]
        placeholder = [-1, 0] if fields[2] != "3" else [-1, -1, 0, 0]
        return [message(*fields[:4], *placeholder, *fields[4 + len(placeholder) :]), text]


class TradeStream(ClientStream):
    """Tick-by-tick trades, with times in whole seconds and without ids and sides."""

    kind_name = "trades"

    def on_step(self, step: MarketStep) -> Sequence[str]:
        """Return the messages that a market step causes."""
        tick, lot = self.instrument.tick, self.instrument.lot
        return [
            message(99, self.request, self.kind, fill.ts // _SECOND, decimal_text(fill.price, tick),
                   decimal_text(fill.size, lot), 0, "NASDAQ", "")
            for fill in step.trades
        ]  # fmt: skip


class QuoteStream(ClientStream):
    """Tick-by-tick quotes: every change of the best bid and ask."""

    kind_name = "quotes"

    def on_step(self, step: MarketStep) -> Sequence[str]:
        """Return the messages that a market step causes."""
        best = step.top_of_book
        if best is None:
            return ()
        tick, lot = self.instrument.tick, self.instrument.lot
        return [
            message(99, self.request, 3, step.ts // _SECOND, decimal_text(best.bid, tick),
                   decimal_text(best.ask, tick), decimal_text(best.bid_size, lot), decimal_text(best.ask_size, lot), 0)
        ]  # fmt: skip


class Level1Stream(ClientStream):
    """Level 1: the best bid and ask, four times a second; delayed if *kind* is 3 or 4."""

    kind_name, interval_ns = "top", _SECOND // 4

    def __init__(
        self, session: _Client, request: str, instrument: SimulatedInstrument, kind: str
    ) -> None:
        super().__init__(session, request, instrument, kind)
        self.channel = "quotes"
        self._last_sent: object = None
        self._bid, self._ask = ("66", "67") if kind in ("3", "4") else ("1", "2")

    def first(self) -> list[str]:
        """Return the messages that the client is sent as soon as it subscribes."""
        notice = "Requested market data is not subscribed. Displaying delayed market data."
        late = [error(self.request, 10167, notice)] if self._bid == "66" else []
        return [*late, message(58, 1, self.request, self.kind)]

    def on_tick(self, now: int) -> Sequence[str]:
        """Return the messages that are due at *now*."""
        best = self.instrument.top_of_book()
        if best == self._last_sent:
            return ()
        self._last_sent = best
        tick, lot = self.instrument.tick, self.instrument.lot
        return [
            message(
                1,
                6,
                self.request,
                self._bid,
                decimal_text(best.bid, tick),
                decimal_text(best.bid_size, lot),
                0,
            ),
            message(
                1,
                6,
                self.request,
                self._ask,
                decimal_text(best.ask, tick),
                decimal_text(best.ask_size, lot),
                0,
            ),
        ]


class BarStream(ClientStream):
    """Bars of five seconds: of trades, or of quotes at the start and the end."""

    kind_name, interval_ns = "klines", 5 * _SECOND

    def __init__(
        self, session: _Client, request: str, instrument: SimulatedInstrument, shown: str
    ) -> None:
        super().__init__(session, request, instrument, shown)
        self.channel = "klines:5s"
        self._before = self._price()

    def _price(self) -> Decimal:
        best = self.instrument.top_of_book()
        if self.kind == "BID":
            return Decimal(best.bid)
        return Decimal(best.ask) if self.kind == "ASK" else Decimal(best.bid + best.ask) / 2

    def on_tick(self, now: int) -> Sequence[str]:
        """Return the messages that are due at *now*."""
        tick, lot, start = self.instrument.tick, self.instrument.lot, now // _SECOND - 5
        if self.kind not in ("TRADES", "AGGTRADES"):
            before, self._before = self._before, self._price()
            ends = (before, max(before, self._before), min(before, self._before), self._before)
            prices = [decimal_text(price, tick) for price in ends]
            return [message(50, 3, self.request, start, *prices, -1, -1, -1)]
        bar = self.instrument.bar("5s", now - 1)
        if bar is None:
            return ()
        prices = [decimal_text(price, tick) for price in (bar.open, bar.high, bar.low, bar.close)]
        return [
            message(50, 3, self.request, start, *prices, decimal_text(bar.volume, lot),
                   average(bar, self.instrument), bar.trades)
        ]  # fmt: skip


class DepthStream(ClientStream):
    """The best rows of the book, as inserts, updates and deletes."""

    kind_name = "book"

    def __init__(
        self,
        session: _Client,
        request: str,
        instrument: SimulatedInstrument,
        rows: int,
        *,
        smart: bool,
    ) -> None:
        super().__init__(session, request, instrument)
        self.channel, self._count, self._smart = f"book:{rows}", rows, smart
        self._rows: dict[int, list[tuple[int, int]]] = {0: [], 1: []}

    def first(self) -> list[str]:
        """Return the messages that the client is sent as soon as it subscribes."""
        self._rows = {0: [], 1: []}
        return self._changes()

    def on_step(self, step: MarketStep) -> Sequence[str]:
        """Return the messages that a market step causes."""
        return self._changes() if step.last_id >= step.first_id else ()

    def _changes(self) -> list[str]:
        ladder = self.instrument.book_snapshot(self._count)
        texts = []
        for side, now in ((1, ladder.bids), (0, ladder.asks)):
            before, self._rows[side] = self._rows[side], list(now)
            texts += [self._text(side, *change) for change in _operations(before, list(now))]
        return texts

    def _text(self, side: int, operation: int, index: int, price: int, size: int) -> str:
        row = [
            operation,
            side,
            decimal_text(price, self.instrument.tick),
            decimal_text(size, self.instrument.lot),
        ]
        if self._smart:
            return message(13, 1, self.request, index, "NASDAQ", *row, 1)
        return message(12, 1, self.request, index, *row)


def _operations(
    before: list[tuple[int, int]], now: list[tuple[int, int]]
) -> list[tuple[int, int, int, int]]:
    """Return the operations, each with position, price and size, that turn *before* into *now*.

    Removed rows are deleted from the last one up, new rows are inserted from the first one down.
    """
    sizes, operations = dict(now), []
    rows = list(before)
    for index in reversed(range(len(rows))):
        if rows[index][0] not in sizes:
            del rows[index]
            operations.append((2, index, 0, 0))
    for index, (price, size) in enumerate(now):
        if index == len(rows) or rows[index][0] != price:
            rows.insert(index, (price, size))
            operations.append((0, index, price, size))
        elif rows[index][1] != size:
            operations.append((1, index, price, size))
    return operations
