"""Parser of Hyperliquid's frames: it decodes them into message structs and returns events.

Every frame is an object of `channel` and `data`, and msgspec picks the struct by the channel. Two
things that the frames do not mark are worked out elsewhere: repeated trades in `dedup`, closed bars
in `bars`. Acknowledgements go to the codec as well, through `Frames.on_control`.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec import Struct
from tapeloom.events import Book, Event, Quote, Reject, Ticker, Trade

from .bars import BarCloser, BarMessage
from .codec import AckMessage, SubscriptionMessage
from .dedup import TradeDedup, TradeMessage, trade_event
from .symbols import INTERVALS

if TYPE_CHECKING:
    from tapeloom.plugin import Feed, Frames

    from .symbols import Names

__all__ = ["MS", "BookMessage", "Parser", "book_side"]

#: Nanoseconds in a millisecond, the unit of the venue's times.
MS = 1_000_000


#: {"px":"34.967","sz":"2.85","n":1}
class LevelMessage(Struct, gc=False):
    """A level of a book, with price and size as text. `n` is the number of orders, unused here."""

    px: str
    sz: str


#: {"coin":"HYPE","time":1764842873555,"levels":[
#: [{"px":"34.967","sz":"2.85","n":1},{"px":"34.962","sz":"3.84","n":2}],
#: [{"px":"34.969","sz":"1473.06","n":2},{"px":"34.97","sz":"1544.51","n":4}]]}
class BookMessage(Struct, gc=False):
    """A snapshot of 20 levels per side, or of 5 where `fast` is true. REST has the same."""

    coin: str
    time: int
    levels: tuple[list[LevelMessage], list[LevelMessage]]
    fast: bool | None = None


#: {"px":"23.757","sz":"42.09","n":1}
class BestLevel(Struct, gc=False):
    """The best level of a side."""

    px: Decimal
    sz: Decimal


#: {"coin":"HYPE","time":1766566375292,"bbo":[{"px":"23.757","sz":"42.09","n":1},
#: {"px":"23.758","sz":"100.26","n":2}]}
class QuoteMessage(Struct, gc=False):
    """The best bid and ask; an empty side is null."""

    coin: str
    time: int
    bbo: tuple[BestLevel | None, BestLevel | None]


#: {"funding":"0.0000018952","openInterest":"36585.31848","prevDayPx":"86627.0",
#: "dayNtlVlm":"4161029539.6949653625","premium":"-0.0006413454","oraclePx":"84198.0",
#: "markPx":"84148.0","midPx":"84143.5","impactPxs":["84143.0","84144.0"],
#: "dayBaseVlm":"49116.08533"}
class AssetContext(Struct, gc=False):
    """The statistics of 24 hours. Spot does not have `dayBaseVlm` everywhere.

    No price here is that of the last trade: `markPx` is for margins, `midPx` is of the book.
    """

    prevDayPx: Decimal  # noqa: N815
    dayNtlVlm: Decimal  # noqa: N815
    dayBaseVlm: Decimal | None = None  # noqa: N815


#: {"coin":"@107","ctx":{"prevDayPx":"93.124","dayNtlVlm":"64552049.6973299459",
#: "markPx":"92.949","midPx":"92.945","circulatingSupply":"298462370.4079165459","coin":"@107",
#: "totalSupply":"998882916.6303099394","dayBaseVlm":"690824.1400000008"}}
class TickerMessage(Struct, gc=False):
    """The statistics of a coin. The message carries no time."""

    coin: str
    ctx: AssetContext


#: {"channel":"subscriptionResponse","data":{"method":"subscribe",
#: "subscription":{"type":"trades","coin":"BTC"}}}
class AckFrame(Struct, tag_field="channel", tag="subscriptionResponse"):
    """An acknowledgement of a subscribe or unsubscribe message."""

    data: AckMessage


#: {"channel":"trades","data":[{"coin":"HYPE","side":"B","px":"35.276","sz":"5.78",
#: "time":1764835613064,"tid":716095722814130,
#: "hash":"0x0000000000000000000000000000000000000000000000000000000000000000",
#: "users":["0x8cdba352268065be9d5444e1f82b8fe83717bbd5",
#: "0x13558be785661958932ceac35ba20de187275a42"]}]}
class TradesFrame(Struct, gc=False, tag_field="channel", tag="trades"):
    """A batch of trades: those of a block, or the last ones after a subscription."""

    data: list[TradeMessage]


#: {"channel":"l2Book","data":{"coin":"HYPE","time":1764842873555,"levels":[
#: [{"px":"34.967","sz":"2.85","n":1},{"px":"34.962","sz":"3.84","n":2}],
#: [{"px":"34.969","sz":"1473.06","n":2},{"px":"34.97","sz":"1544.51","n":4}]]}}
class BookFrame(Struct, gc=False, tag_field="channel", tag="l2Book"):
    """A book snapshot."""

    data: BookMessage


#: {"channel":"bbo","data":{"coin":"HYPE","time":1766566375292,"bbo":[
#: {"px":"23.757","sz":"42.09","n":1},{"px":"23.758","sz":"100.26","n":2}]}}
class QuoteFrame(Struct, gc=False, tag_field="channel", tag="bbo"):
    """A top of book."""

    data: QuoteMessage


#: {"channel":"candle","data":{"t":1764806400000,"T":1764892799999,"s":"HYPE","i":"1d",
#: "o":"34.668","c":"34.868","h":"36.219","l":"34.251","v":"3495670.8399999999","n":102895}}
class BarFrame(Struct, gc=False, tag_field="channel", tag="candle"):
    """A bar. `data` is documented as an array, and sent as an object."""

    data: BarMessage | list[BarMessage]


#: {"channel":"activeAssetCtx","data":{"coin":"xyz:AAPL","ctx":{"funding":"0.0000074304",
#: "openInterest":"221413.164","prevDayPx":"337.34","dayNtlVlm":"172946726.7845301032",
#: "premium":"0.0002355392","oraclePx":"312.05","markPx":"312.12","midPx":"312.12",
#: "impactPxs":["312.094","312.153"],"dayBaseVlm":"534571.812"}}}
class PerpTickerFrame(Struct, gc=False, tag_field="channel", tag="activeAssetCtx"):
    """The statistics of a perpetual."""

    data: TickerMessage


#: {"channel":"activeSpotAssetCtx","data":{"coin":"@107","ctx":{"prevDayPx":"93.124",
#: "dayNtlVlm":"64552049.6973299459","markPx":"92.949","midPx":"92.945",
#: "circulatingSupply":"298462370.4079165459","coin":"@107",
#: "totalSupply":"998882916.6303099394","dayBaseVlm":"690824.1400000008"}}}
class SpotTickerFrame(Struct, gc=False, tag_field="channel", tag="activeSpotAssetCtx"):
    """The statistics of a spot pair."""

    data: TickerMessage


Events: TypeAlias = list[Event]
_decode = msgspec.json.Decoder(
    AckFrame | TradesFrame | BookFrame | QuoteFrame | BarFrame | PerpTickerFrame | SpotTickerFrame
).decode
_coin = attrgetter("coin")


def book_side(side: list[LevelMessage], depth: int) -> list[tuple[str, str]]:
    """Return the first *depth* levels of a side as pairs of price and size, both text."""
    return [(level.px, level.sz) for level in side[:depth]]


def _price_and_size(level: BestLevel | None) -> tuple[Decimal, Decimal] | tuple[None, None]:
    return (level.px, level.sz) if level is not None else (None, None)


def _duplicate_reject(trade: Trade) -> Reject:
    """Return the `Reject` of a trade that came before."""
    evidence = f"a trade with time {trade.ts // MS} and id {trade.id} came before"
    fields = trade.venue, trade.symbol, trade.ts, trade.recv
    return Reject(*fields, "duplicate", evidence, trade, trade.channel)


class Parser:
    """Parses frames into events. Its state comes from the frames alone, never from a clock."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._venue, self._counters = feed.venue, feed.counters
        self._unified = feed.listing.unified
        self._dedup = TradeDedup(names.settings.remembered_trades)
        self._bars = BarCloser(feed, names.settings)
        #: Time of the last book by coin and channel, in ms.
        self._book_times: dict[tuple[str, str], int] = {}
        self._channels = frozenset(feed.channels)
        self._bar_channels = {interval: f"klines:{interval}" for interval in INTERVALS}
        self._parsers: dict[type, Callable[[Any, int, Events], None]] = {
            TradesFrame: self._parse_trades,
            BookFrame: self._parse_book,
            QuoteFrame: self._parse_quote,
            BarFrame: self._parse_bars,
            PerpTickerFrame: self._parse_ticker,
            SpotTickerFrame: self._parse_ticker,
        }

    def __call__(self, frames: Frames) -> Events:
        """Return the events of *frames*, in their order."""
        events: Events = []
        recv, parsers = frames.recv, self._parsers
        for frame in frames:
            try:
                message = _decode(frame)
                if type(message) is AckFrame:
                    self._acknowledged(message.data)
                    events.extend(frames.on_control(frame))
                else:
                    parsers[type(message)](message.data, recv, events)
            except (ValueError, ArithmeticError, RecursionError):
                events.extend(frames.on_control(frame))
        return events

    def _acknowledged(self, ack: AckMessage) -> None:
        """Reset the state of a subscription that starts or ends."""
        subscription: SubscriptionMessage = ack.subscription
        coin, key = subscription.coin, (subscription.coin, subscription.interval or "")
        if ack.method == "unsubscribe":
            # Core also unsubscribes from stalled symbols and subscribes again: keep their state.
            if coin not in self._unified:
                self._dedup.forget(coin)
                self._bars.forget(key)
        elif subscription.type == "trades":
            self._dedup.acknowledged(coin)
        elif subscription.type == "candle":
            self._bars.acknowledged(key)
        elif subscription.type == "l2Book":
            # The new subscription may be served by a node of the venue that is some blocks behind.
            self._book_times.pop((coin, self._names.book(subscription.fast)), None)

    def _symbol(self, coin: str, channel: str, count: int = 1) -> str:
        """Return the symbol of *coin* if it was requested; else count *count* and return ""."""
        symbol = self._unified.get(coin) if channel in self._channels else None
        if symbol is None:
            self._counters["unrequested"] += count
            return ""
        return symbol

    def _parse_trades(self, messages: list[TradeMessage], recv: int, out: Events) -> None:
        if not messages:
            self._dedup.empty_batch()
        for coin, group in groupby(messages, _coin):
            batch = list(group)
            symbol = self._symbol(coin, "trades", len(batch))
            if not symbol:
                continue
            self._bars.advance(max(message.time for message in batch), recv, out)
            venue, repeated = self._venue, 0
            for message, origin in self._dedup.classify(coin, batch):
                if origin == "repeated":
                    repeated += 1
                elif origin == "duplicate":
                    out.append(_duplicate_reject(trade_event(venue, symbol, message, recv)))
                else:
                    out.append(trade_event(venue, symbol, message, recv, origin))
            if repeated:
                self._counters["repeated_trades"] += repeated

    def _parse_book(self, message: BookMessage, recv: int, out: Events) -> None:
        channel = self._names.book(message.fast)
        symbol = self._symbol(message.coin, channel)
        if not symbol:
            return
        self._bars.advance(message.time, recv, out)
        depth = 5 if channel == "book:5" else 20
        sides = book_side(message.levels[0], depth), book_side(message.levels[1], depth)
        fields = self._venue, symbol, message.time * MS, recv
        event = Book(*fields, "snapshot", *sides, None, None, None, depth, channel)
        last = self._book_times.get((message.coin, channel), message.time)
        if message.time < last:
            evidence = f"time {message.time} is before the time of the last book, {last}"
            out.append(Reject(*fields, "backwards", evidence, event, channel))
            return
        self._book_times[message.coin, channel] = message.time
        out.append(event)

    def _parse_quote(self, message: QuoteMessage, recv: int, out: Events) -> None:
        symbol = self._symbol(message.coin, "quotes")
        if symbol:
            self._bars.advance(message.time, recv, out)
            bid, bid_size = _price_and_size(message.bbo[0])
            ask, ask_size = _price_and_size(message.bbo[1])
            fields = self._venue, symbol, message.time * MS, recv
            out.append(Quote(*fields, bid, bid_size, ask, ask_size, None, "quotes"))

    def _parse_bars(self, data: BarMessage | list[BarMessage], recv: int, out: Events) -> None:
        for message in [data] if isinstance(data, BarMessage) else data:
            channel = self._bar_channels.get(message.i, "")
            symbol = self._symbol(message.s, channel)
            if symbol:
                self._bars.process(message, symbol, recv, out)

    def _parse_ticker(self, message: TickerMessage, recv: int, out: Events) -> None:
        symbol = self._symbol(message.coin, "ticker")
        if symbol:
            ctx = message.ctx
            prices = None, ctx.prevDayPx, None, None  # the venue sends neither last, high nor low
            sums = ctx.dayBaseVlm, ctx.dayNtlVlm
            out.append(Ticker(self._venue, symbol, recv, recv, *prices, *sums, None, "ticker"))
