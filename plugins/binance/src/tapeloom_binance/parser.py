"""The parser that turns Binance's WebSocket frames into events, with the messages of `wire`.

The `#:` lines above a struct are one sample payload (recorded, or from the venue's documentation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from msgspec import Raw, Struct, ValidationError
from msgspec.json import Decoder, encode
from tapeloom.events import Event, Trade
from tapeloom.plugin import Feed, Frames, TradeBatch, channel_parts
from tapeloom.plugin.bounds import INT_LIMIT, number, reject_out_of_bounds

from .wire import (
    AggregateTrade,
    BookTicker,
    DepthSnapshot,
    DepthUpdate,
    KlineMessage,
    RawTrade,
    Route,
    Ticker24h,
    new_trade,
)

if TYPE_CHECKING:
    from .symbols import Names

__all__ = ["Parser"]

T = TypeVar("T")
Decode: TypeAlias = Callable[[bytes], Any]

#: The number of frames from which decoding them together is faster than one by one.
_BATCH_MIN_FRAMES = 4
#: What decoding or building an event raises for a frame that is not usable market data.
_PARSE_ERRORS = (KeyError, ValueError, ArithmeticError, RecursionError)


#: {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,
#: "p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}}
class _StreamEnvelope(Struct, Generic[T], gc=False):
    """A frame of a combined stream: the name of the stream and its message."""

    stream: str
    data: T


#: {"e":"aggTrade","E":123456789,"s":"BTCUSDT","a":5933014,"p":"0.001","q":"100","nq":"100","f":100,
#: "l":105,"T":123456785,"m":true,"st":1}
class _FuturesType(Struct):
    """The field `st` of a message: 1 is USD-M, 2 is COIN-M.

    Since June 2026 the hosts of either market may send the streams of both.
    """

    st: Any = None


#: {"i":"1m"}
class _Interval(Struct):
    """The interval of a bar."""

    i: str


#: {"e":"kline","E":1633998523963,"s":"NKNUSDT","k":{"t":1633998480000,"T":1633998539999,"i":"1m"}}
class _RawMessage(Struct):
    """A message of a raw stream, which has no envelope: tapes of other programs have them."""

    s: str
    e: str = "bookTicker"  # spot's bookTicker has no event type
    k: _Interval | None = None


_decode_envelope = Decoder(_StreamEnvelope[Raw]).decode
_decode_raw_message = Decoder(_RawMessage).decode
#: The kind of the stream that has messages of an event type.
_KINDS = {
    "trade": "trade", "aggTrade": "aggTrade", "bookTicker": "bookTicker", "depthUpdate": "depth",
    "kline": "kline", "24hrTicker": "ticker",
}  # fmt: skip
_decode_futures_type = Decoder(_FuturesType).decode
#: Decodes many frames together, as the items of one JSON list, by their event type `e`.
_decode_batch = Decoder(
    list[
        _StreamEnvelope[
            RawTrade | AggregateTrade | BookTicker | DepthUpdate | KlineMessage | Ticker24h
        ]
    ]
).decode
#: Decodes one frame, by the kind of its stream ("partial" is a partial book of spot).
_DECODERS: dict[str, Decode] = {
    "trade": Decoder(_StreamEnvelope[RawTrade]).decode,
    "aggTrade": Decoder(_StreamEnvelope[AggregateTrade]).decode,
    "bookTicker": Decoder(_StreamEnvelope[BookTicker]).decode,
    "depth": Decoder(_StreamEnvelope[DepthUpdate]).decode,
    "partial": Decoder(_StreamEnvelope[DepthSnapshot]).decode,
    "kline": Decoder(_StreamEnvelope[KlineMessage]).decode,
    "ticker": Decoder(_StreamEnvelope[Ticker24h]).decode,
}


class Parser:
    """Parses frames into events. Its only side effect is that it counts unrequested frames.

    It makes sure itself that all values are within the bounds: trades are checked as they are made.

    One stream serves one channel of one symbol: the first stream that arrives. A tape may hold a book
    at two speeds, or raw and aggregate trades; mixing them would break the order of their ids.

    Many frames are decoded together by their event type `e`. Few frames are decoded singly by the
    name of their stream, and so is every frame of a feed with streams that have no `e` (spot's
    bookTicker and partial books).
    """

    within_bounds = True

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._routes: dict[str, Route] = {}  # by the name of the stream
        self._by_prefix: dict[bytes, tuple[Decode, Route]] = {}  # by the frame's bytes before ","
        self._stream_by_channel: dict[tuple[str, str], str] = {}  # by symbol and channel
        # Messages of futures always have the event type `e`; these two channels of spot do not.
        has_untyped = any(name == "quotes" or name.startswith("book:") for name in feed.channels)
        self._is_batchable = bool(names.market.settled_in) or not has_untyped

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in the order of the frames."""
        if self._is_batchable and len(frames) >= _BATCH_MIN_FRAMES:
            try:
                envelopes = _decode_batch(b"[" + b",".join(frames) + b"]")
                if len(envelopes) == len(frames):
                    try:
                        return self._parse_batch(envelopes, frames.recv)
                    except KeyError:
                        if self._open_streams(frames, envelopes):
                            return self._parse_batch(envelopes, frames.recv)
            except _PARSE_ERRORS:
                pass  # Parse the frames singly instead. Nothing was counted or delivered so far.
        return self._parse_singly(frames)

    def _parse_batch(self, envelopes: list[Any], recv: int) -> list[Event]:
        """Return the events of frames that were decoded together.

        Raises KeyError for a stream that is not open yet, ValueError or ArithmeticError for a value that
        is not within the bounds.
        """
        all_routes = self._routes
        routes = [all_routes[envelope.stream] for envelope in envelopes]
        messages = [envelope.data for envelope in envelopes]
        subscription_ids = [route.subscription_id for route in routes]
        if None not in subscription_ids:
            return TradeBatch(self._trades(routes, messages, recv), subscription_ids)  # type: ignore[arg-type]
        is_trade = [number is not None for number in subscription_ids]
        trades = self._trades([*compress(routes, is_trade)], [*compress(messages, is_trade)], recv)
        next_trade = iter(trades).__next__
        return reject_out_of_bounds(
            [
                next_trade() if is_plain else message.to_event(route, recv)
                for is_plain, message, route in zip(is_trade, messages, routes, strict=True)
            ]
        )

    def _trades(self, routes: Sequence[Route], messages: Sequence[Any], recv: int) -> list[Event]:
        """Return the plain trades of messages, each with its route (hot path)."""
        venue, time_unit_ns, to_decimal = self._feed.venue, self._names.time_unit_ns, number
        limit, is_finite = INT_LIMIT, Decimal.is_finite
        # What can be done for all of them at once is done in C.
        texts = [message.q for message in messages]
        sizes = list(map(to_decimal, texts))
        together = "".join(texts)
        if "n" in together or "N" in together:  # as in Infinity and NaN, and in no finite number
            raise ValueError("a size is not finite")
        trades = list(map(new_trade, repeat(Trade, len(routes))))
        for trade, route, message, size in zip(trades, routes, messages, sizes, strict=True):
            # Setting the fields of a trade takes half the time of calling the class.
            trade.venue = venue
            trade.symbol = route.symbol
            trade.ts = ts = message.T * time_unit_ns
            trade.recv = recv
            text = message.p  # the same as `Route.parse_price`, without a call
            if text == route.last_price_text:
                trade.price = route.last_price
            else:
                trade.price = price = to_decimal(text)
                if not is_finite(price):
                    raise ValueError("a price is not finite")
                route.last_price, route.last_price_text = price, text
            trade.size = size
            if ts >= limit:
                raise ValueError("a time is too late")
            trade.side = "sell" if message.m else "buy"
            trade.id = message.t
            trade.channel = route.channel
            trade.origin = "live"
        return trades

    def _open_streams(self, frames: Frames, envelopes: list[Any]) -> bool:
        """Open the streams that are new; return False if one of them was not requested."""
        return all(
            envelope.stream in self._routes or self._open_stream(_decode_envelope(frame))
            for frame, envelope in zip(frames, envelopes, strict=True)
        )

    def _parse_singly(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, decoding each by itself."""
        by_prefix, recv = self._by_prefix, frames.recv
        events: list[Event] = []
        has_only_trades = True
        for frame in frames:
            try:
                decode, route = by_prefix[frame.partition(b",")[0]]
                event = decode(frame).data.to_event(route, recv)
            except _PARSE_ERRORS:
                events += self._parse_unusual(frame, frames)
                has_only_trades = False
                continue
            events.append(event)
            if route.subscription_id is None:
                has_only_trades = False
        return events if has_only_trades else reject_out_of_bounds(events)

    def _parse_unusual(self, frame: bytes, frames: Frames) -> Sequence[Event]:
        """Return the events of a frame whose prefix is unknown or whose message does not decode.

        Its keys may stand in another order, its stream may be new or not requested, or it is no
        market data: then `Frames.on_control` decides.
        """
        try:
            try:
                envelope = _decode_envelope(frame)
            except ValidationError:
                envelope = _decode_envelope(_enveloped(frame))
            if envelope.stream not in self._routes and not self._open_stream(envelope):
                self._feed.counters["unrequested"] += 1
                return ()
            prefix = _frame_prefix(envelope.stream)
            decode, route = self._by_prefix[prefix]
            message = decode(prefix + b',"data":' + bytes(envelope.data) + b"}").data
            return (message.to_event(route, frames.recv),)
        except _PARSE_ERRORS:
            return frames.on_control(frame)

    def _open_stream(self, envelope: _StreamEnvelope[Raw]) -> bool:
        """Make the route of a new stream; return False if the stream was not requested.

        Raises ValueError if the frame is no market data.
        """
        stream, market = envelope.stream, self._names.market
        if "@" not in stream:
            raise ValueError("no market data")
        native, kind, channel = self._names.parse_stream(stream)
        symbol = self._feed.listing.unified.get(native)
        if symbol is None or not channel:
            return False
        if _decode_futures_type(envelope.data).st not in (None, market.futures_type):
            return False
        if self._stream_by_channel.setdefault((symbol, channel), stream) != stream:
            return False
        parameter = channel_parts(channel)[1]
        if kind == "depth" and parameter and not market.settled_in:
            kind = "partial"
        # Raw trades of futures may become rejects, so their stream does not have only plain trades.
        is_plain_trade = kind == "aggTrade" or (kind == "trade" and not market.settled_in)
        route = Route(self._feed.venue, symbol, channel, self._names.time_unit_ns, parameter)
        if is_plain_trade:
            route.subscription_id = len(self._routes)
        self._routes[stream] = route
        self._by_prefix[_frame_prefix(stream)] = _DECODERS[kind], route
        return True


def _enveloped(frame: bytes) -> bytes:
    """Return a message of a raw stream in the envelope of its combined stream.

    Raises ValueError or KeyError if it is no such message.
    """
    message = _decode_raw_message(frame)
    kind = _KINDS[message.e] + (f"_{message.k.i}" if message.k is not None else "")
    return _frame_prefix(f"{message.s.lower()}@{kind}") + b',"data":' + frame + b"}"


def _frame_prefix(stream: str) -> bytes:
    """Return the bytes before the first comma of a frame of this stream, as the venue writes it."""
    return b'{"stream":' + encode(stream)
