"""Bybit's market-data messages, and the parser that turns WebSocket frames into events.

Data flow: the transport pushes frames, `Parser` decodes them with the structs below, and the builder
of the frame's topic makes the events.

The `#:` lines above a struct are one sample payload (recorded, or from the venue's documentation).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from tapeloom.events import Bar, Book, Event, Quote, Reject, Side, Ticker, Trade
from tapeloom.plugin import Feed, Frames, TradeBatch, channel_parts

if TYPE_CHECKING:
    from .names import Names

__all__ = ["MS", "SIDES", "Depth", "Level", "Parser"]

T = TypeVar("T")
Level: TypeAlias = tuple[str, str]
#: Appends the events of a decoded push, read at a time in ns, to a batch. `Parser` returns the batch as
#: a plain list if it got events other than trades.
Builder: TypeAlias = Callable[[Any, int, TradeBatch], None]
MS = 1_000_000  #: ns; the venue's times are in ms
SIDES: dict[str, Side] = {"Buy": "buy", "Sell": "sell"}
#: What decoding or building raises for a frame that is not usable market data.
_PARSE_ERRORS = (ValueError, ArithmeticError, RecursionError)


#: {"topic":"orderbook.1.BTCUSDT","ts":1789299655643,"type":"snapshot","data":{"s":"BTCUSDT",
#: "b":[["77140.5","0.216593"]],"a":[["77140.6","0.324006"]],"u":1980705,"seq":2189232157},
#: "cts":1789299655598}
class Push(Struct, Generic[T], gc=False):
    """The envelope of every push. Only books have `cts`, the time of the matching engine."""

    type: Literal["snapshot", "delta"]
    ts: int
    data: T
    cts: int = 0


#: {"i":"2100000000188691524","T":1789299660688,"p":"77140.5","v":"0.00389","S":"Sell",
#: "seq":2189232173,"s":"BTCUSDT","BT":false,"RPI":false}
class PublicTrade(Struct, gc=False):
    """A row of ``publicTrade``. `S` is the taker's side; `BT` marks a block trade."""

    T: int
    S: Literal["Buy", "Sell"]
    v: Decimal
    p: Decimal
    i: str
    BT: bool = False


#: {"s":"BTCUSDT","b":[["77140.5","0.212703"]],"a":[],"u":3734360,"seq":2189232173}
class Depth(Struct, gc=False):
    """The data of ``orderbook``.

    `u` counts the pushes of one topic; `seq` is a sequence number that all depths share.
    """

    b: list[Level]
    a: list[Level]
    u: int
    seq: int | None = None


#: {"start":1672324800000,"end":1672325099999,"interval":"5","open":"16649.5","close":"16677",
#: "high":"16677","low":"16608","volume":"2.081","turnover":"34666.4005","confirm":false,
#: "timestamp":1672324988882}
class Kline(Struct, gc=False):
    """A row of ``kline``."""

    start: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal
    confirm: bool  #: the bar is closed


#: {"symbol":"BTCUSDT","tickDirection":"ZeroPlusTick","price24hPcnt":"0.001455",
#: "lastPrice":"63561.60","prevPrice24h":"63469.20","highPrice24h":"63994.40",
#: "lowPrice24h":"62810.50","turnover24h":"3515096831.9640","volume24h":"55362.9100"}
class Ticker24h(
    Struct,
    gc=False,
    rename={
        "last": "lastPrice", "open": "prevPrice24h", "high": "highPrice24h",
        "low": "lowPrice24h", "volume": "volume24h", "quote_volume": "turnover24h",
    },
):  # fmt: skip
    """The data of ``tickers``. A delta has only the fields that changed."""

    last: Decimal | UnsetType = UNSET
    open: Decimal | UnsetType = UNSET
    high: Decimal | UnsetType = UNSET
    low: Decimal | UnsetType = UNSET
    volume: Decimal | UnsetType = UNSET
    quote_volume: Decimal | UnsetType = UNSET


#: {"topic":"publicTrade.BTCUSDT","ts":1789299660724,"type":"snapshot","data":[
#: {"i":"2100000000188691524","T":1789299660688,"p":"77140.5","v":"0.00389","S":"Sell",
#: "seq":2189232173,"s":"BTCUSDT","BT":false,"RPI":false}]}
class TopicMessage(Struct):
    """The topic of any frame; empty for a frame that is no push."""

    topic: str = ""


class Route(Struct):
    """The fields that the builder of one topic needs."""

    feed: Feed
    names: Names
    symbol: str
    channel: str
    subscription_id: int


def _trade_builder(route: Route) -> Builder:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    subscription_ids = [route.subscription_id]
    keeps_blocks = route.names.settings.block_trades

    def build(push: Push[list[PublicTrade]], recv: int, batch: TradeBatch) -> None:
        sides, add_event, trades = SIDES, batch.append, 0
        for row in push.data:
            ts = row.T * MS
            trade = Trade(
                venue, symbol, ts, recv, row.p, row.v, sides[row.S], row.i, channel
            )  # fmt: skip
            if row.BT and not keeps_blocks:
                evidence = "BT=true: a block trade is agreed outside of the order book"
                add_event(Reject(venue, symbol, ts, recv, "block_trade", evidence, trade, channel))
            else:
                add_event(trade)
                trades += 1
        batch.subscription_ids += subscription_ids * trades

    return build


def _quote_builder(route: Route) -> Builder:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    counters = route.feed.counters
    last_update_id: int | None = None

    def build(push: Push[Depth], recv: int, batch: TradeBatch) -> None:
        nonlocal last_update_id
        book = push.data
        # The venue repeats a quote that did not change for three seconds. A repeated quote was still
        # valid at the time of the push.
        is_repeat = book.u == last_update_id
        ts = (push.ts if is_repeat else push.cts or push.ts) * MS
        if push.type == "delta":
            evidence = "expected a snapshot, got a delta, which holds only the side that changed"
            batch.append(Reject(venue, symbol, ts, recv, "half_quote", evidence, None, channel))
            return
        bid, bid_size = map(Decimal, book.b[0]) if book.b else (None, None)
        ask, ask_size = map(Decimal, book.a[0]) if book.a else (None, None)
        top_of_book = bid, bid_size, ask, ask_size
        last_update_id = book.u
        counters["repeats"] += is_repeat
        batch.append(Quote(venue, symbol, ts, recv, *top_of_book, book.seq, channel))

    return build


def _book_builder(route: Route) -> Builder:
    """Return the builder of book events.

    A delta gets a `first_id`, by which skipped update ids are found. Depths that the setting
    `unchecked` names get none, because skipped ids are normal there.
    """
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    depth = int(route.names.topic_prefix(channel).partition(".")[2])
    is_checked = depth not in route.names.settings.unchecked

    def build(push: Push[Depth], recv: int, batch: TradeBatch) -> None:
        book, ts = push.data, (push.cts or push.ts) * MS
        # Update id 1 means that the venue's service restarted: the push is a whole book.
        is_snapshot = push.type == "snapshot" or book.u == 1
        first_id = book.u if is_checked and not is_snapshot else None
        kind: Literal["snapshot", "delta"] = "snapshot" if is_snapshot else "delta"
        # The first, the last and the previous update id; the venue does not send the previous one.
        remaining = first_id, book.u, None, depth, channel
        batch.append(Book(venue, symbol, ts, recv, kind, book.b, book.a, *remaining))

    return build


def _kline_builder(route: Route) -> Builder:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    interval = channel_parts(channel)[1]

    def build(push: Push[list[Kline]], recv: int, batch: TradeBatch) -> None:
        for row in push.data:
            prices = row.open, row.high, row.low, row.close
            common = venue, symbol, row.start * MS, recv, interval, *prices
            # The venue does not send the volume that takers bought and the number of trades.
            sums = row.volume, row.turnover, None, None, None
            batch.append(Bar(*common, *sums, row.confirm, True, 0, channel, "live"))

    return build


def _ticker_builder(route: Route) -> Builder:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    last_figures: list[Any] = [UNSET] * 6

    def build(push: Push[Ticker24h], recv: int, batch: TradeBatch) -> None:
        nonlocal last_figures
        day, ts = push.data, push.ts * MS
        figures: list[Any] = [day.last, day.open, day.high, day.low, day.volume, day.quote_volume]
        if push.type == "delta":
            figures = [
                old if new is UNSET else new for new, old in zip(figures, last_figures, strict=True)
            ]
        if UNSET in figures:
            evidence = f"expected all six figures; some are missing after this {push.type}"
            batch.append(Reject(venue, symbol, ts, recv, "half_ticker", evidence, None, channel))
            return
        last_figures = figures
        batch.append(Ticker(venue, symbol, ts, recv, *figures, None, channel))  # type: ignore[call-arg]

    return build


def _push_decoder(data: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(Push[data]).decode


#: The decoder and the maker of the builder, by the name of a channel.
_CHANNELS: dict[str, tuple[Callable[[bytes], Any], Callable[[Route], Builder]]] = {
    "trades": (_push_decoder(list[PublicTrade]), _trade_builder),
    "quotes": (_push_decoder(Depth), _quote_builder),
    "book": (_push_decoder(Depth), _book_builder),
    "klines": (_push_decoder(list[Kline]), _kline_builder),
    "ticker": (_push_decoder(Ticker24h), _ticker_builder),
}
_decode_topic = msgspec.json.Decoder(TopicMessage).decode


class Parser:
    """Parses frames into events.

    Its only state is the last ticker and the last quote of each symbol, its only side effect are the
    counters `unrequested` and `repeats`.

    A frame usually begins with its topic, so its route is found by the bytes before the first comma.
    The topic of any other frame is decoded first.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._routes: dict[bytes, tuple[Callable[[bytes], Any], Builder]] = {}  # by frame prefix

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in the order of the frames."""
        routes, recv = self._routes, frames.recv
        batch = TradeBatch()
        for frame in frames:
            try:
                route = routes.get(frame.partition(b",")[0]) or self._route_by_topic(frame)
                if route is not None:
                    route[1](route[0](frame), recv, batch)
            except _PARSE_ERRORS:
                batch.extend(frames.on_control(frame))
        return batch if len(batch.subscription_ids) == len(batch) else list(batch)

    def _route_by_topic(self, frame: bytes) -> tuple[Callable[[bytes], Any], Builder] | None:
        """Return the route of a frame whose first bytes are those of no route, by its topic.

        Makes the route if the topic is new.

        Returns None, and counts, if the topic was not requested. Raises ValueError if the frame is no
        market data.
        """
        topic = _decode_topic(frame).topic
        if not topic:
            raise ValueError("no market data")
        prefix = b'{"topic":' + msgspec.json.encode(topic)
        if prefix not in self._routes:
            topic_prefix, _, native = topic.rpartition(".")
            symbol = self._feed.listing.unified.get(native)
            channel = self._names.channels.get(topic_prefix)
            if symbol is None or channel is None:
                self._feed.counters["unrequested"] += 1
                return None
            decode, make_builder = _CHANNELS[channel_parts(channel)[0]]
            route = Route(self._feed, self._names, symbol, channel, len(self._routes))
            self._routes[prefix] = decode, make_builder(route)
        return self._routes[prefix]
