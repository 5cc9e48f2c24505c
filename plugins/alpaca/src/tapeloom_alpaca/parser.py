"""The parser that turns Alpaca's frames into events, with the messages of `wire`.

A frame is an array of items; `T` is the type of an item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from tapeloom.events import Event, Reject
from tapeloom.plugin import Feed, Frames, HistoryQuery

from .wire import (
    BarMessage,
    BookMessage,
    CancelMessage,
    CorrectionMessage,
    DailyBarMessage,
    EventBuilder,
    ImbalanceMessage,
    ItemMessage,
    PriceBandMessage,
    QuoteMessage,
    TradeMessage,
    TradingStatusMessage,
    UpdatedBarMessage,
    trade_id,
)

if TYPE_CHECKING:
    from .names import Names

__all__ = ["Parser"]

#: Number of items of a frame that may be impossible to parse; the rest of the frame is rejected then, so
#: that a frame of a megabyte does not become half a million events.
_MAX_BAD_ITEMS = 100

_AnyItem = (
    TradeMessage
    | QuoteMessage
    | BarMessage
    | UpdatedBarMessage
    | DailyBarMessage
    | BookMessage
    | CorrectionMessage
    | CancelMessage
    | TradingStatusMessage
    | PriceBandMessage
    | ImbalanceMessage
)
_decode_items = msgspec.json.Decoder(list[_AnyItem]).decode
_decode_item = msgspec.json.Decoder(_AnyItem).decode
_split_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Parser:
    """Parses frames into events.

    Its state is the time of the last book snapshot.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._build = feed, EventBuilder(feed, names)
        self._resync = names.settings.book_resync
        #: Time of the last snapshot by symbol, in ns.
        self._snapshots: dict[str, int] = {}
        parsers: dict[str, dict[type[ItemMessage], Callable[[Any, str, int], Event]]] = {
            "trades": {
                TradeMessage: self._build.trade,
                CorrectionMessage: self._correction,
                CancelMessage: self._cancel,
            },
            "quotes": {QuoteMessage: self._build.quote},
            "klines:1m": {BarMessage: self._build.bar, UpdatedBarMessage: self._updated_bar},
            "klines:1d": {DailyBarMessage: self._daily_bar},
            "book": {BookMessage: self._book},
            "x-statuses": {TradingStatusMessage: self._trading_status},
            "x-lulds": {PriceBandMessage: self._price_band},
        }
        self._parsers = {
            message: parser
            for channel in feed.channels
            for message, parser in parsers.get(channel, {}).items()
        }

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in their order."""
        events: list[Event] = []
        unified, parsers, recv = self._feed.listing.unified, self._parsers, frames.recv
        for frame in frames:
            try:
                items = _decode_items(frame)
            except (ValueError, RecursionError):
                items = None
            if not items:
                self._parse_item_by_item(frame, frames, events)
                continue
            bad = 0
            for item in items:
                try:
                    events.append(parsers[type(item)](item, unified[item.S], recv))
                except KeyError:
                    if item.S:
                        unsupported = type(item) is ImbalanceMessage
                        self._feed.counters["unsupported" if unsupported else "unrequested"] += 1
                        continue
                    # Nobody can tell whose trade is lost with it.
                except (ValueError, IndexError, OverflowError, ArithmeticError):
                    pass  # Its time cannot be parsed, or its sums cannot be computed.
                else:
                    continue
                bad += 1
                events.extend(frames.on_control(msgspec.json.encode([item])))
                if bad == _MAX_BAD_ITEMS:
                    events.extend(frames.on_control(_rest(frame)))
                    break
        return events

    def _parse_item_by_item(self, frame: bytes, frames: Frames, events: list[Event]) -> None:
        """Parse a frame with an item that is not market data or cannot be decoded."""
        try:
            raw_items = _split_items(frame)
        except (ValueError, RecursionError):
            raw_items = []
        if len(raw_items) < 2:
            events.extend(frames.on_control(frame))
            return
        bad = 0
        for raw in raw_items:
            if bad >= _MAX_BAD_ITEMS:
                events.extend(frames.on_control(_rest(frame)))
                return
            text = b"[" + bytes(raw) + b"]"
            try:
                _decode_item(raw)
            except (ValueError, RecursionError):
                bad += 1
                events.extend(frames.on_control(text))
                continue
            single = Frames([text], frames.recv, frames.on_control, frames.connection)
            parsed = self(single)
            bad += any(type(event) is Reject for event in parsed)
            events.extend(parsed)

    def _updated_bar(self, message: UpdatedBarMessage, symbol: str, recv: int) -> Event:
        return self._build.bar(message, symbol, recv, revision=1)  # core numbers further ones

    def _daily_bar(self, message: DailyBarMessage, symbol: str, recv: int) -> Event:
        return self._build.bar(message, symbol, recv, "1d", closed=False)

    def _book(self, message: BookMessage, symbol: str, recv: int) -> Event:
        if message.r:
            self._snapshots[symbol] = recv
        elif self._resync and recv - self._snapshots.setdefault(symbol, recv) >= self._resync:
            self._snapshots[symbol] = recv
            self._feed.query_history(HistoryQuery("book", symbol, "book"))
        return self._build.book(message, symbol, recv, snapshot=message.r, origin="live")

    def _correction(self, message: CorrectionMessage, symbol: str, recv: int) -> Event:
        m = message
        text = (
            f"id={trade_id(m.x, m.oi)} price={m.op} size={m.os}"
            f" is now id={trade_id(m.x, m.ci)} price={m.cp} size={m.cs}"
        )
        return self._build.status(m, symbol, recv, "trade_corrected", text, "trades")

    def _cancel(self, message: CancelMessage, symbol: str, recv: int) -> Event:
        m = message
        text = f"id={trade_id(m.x, m.i)} price={m.p} size={m.s} action={m.a}"
        return self._build.status(m, symbol, recv, "trade_cancelled", text, "trades")

    def _trading_status(self, message: TradingStatusMessage, symbol: str, recv: int) -> Event:
        m = message
        text = f"{m.sc} {m.sm}; {m.rc} {m.rm}".strip("; ")
        return self._build.status(m, symbol, recv, "trading_status", text, "x-statuses")

    def _price_band(self, message: PriceBandMessage, symbol: str, recv: int) -> Event:
        text = f"down={message.d} up={message.u} indicator={message.i}"
        return self._build.status(message, symbol, recv, "price_band", text, "x-lulds")


def _rest(frame: bytes) -> bytes:
    """Return what stands for the rest of a frame with too many items that cannot be parsed."""
    return b"the rest of a frame with %d such items: " % _MAX_BAD_ITEMS + frame[:200]
