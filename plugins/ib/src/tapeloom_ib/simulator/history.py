"""The gateway's answers to requests for past trades and bars."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .streams import average, decimal_text, error, message

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import MarketTrade, SimulatedInstrument

__all__ = ["bars", "ticks"]

#: Nanoseconds in a second.
_SECOND = 1_000_000_000
#: The market's interval by the gateway's bar size.
_INTERVALS = {"1 secs": "1s", "5 secs": "5s", "10 secs": "10s", "15 secs": "15s", "30 secs": "30s",
          "1 min": "1m", "5 mins": "5m", "1 hour": "1h", "1 day": "1d"}  # fmt: skip
#: Seconds in a unit of a duration.
_UNITS = {"S": 1, "D": 86_400, "W": 604_800}


def ticks(request: str, instrument: SimulatedInstrument, start: str, limit: int) -> list[str]:
    """Return the first *limit* trades from *start* on, and the rest of the last second's."""
    since = _moment(start)
    first = instrument.first_trade_since(since)
    trades: list[MarketTrade] = []
    if first is not None:
        trades = instrument.trades(first.id, limit + 1_000)
    if len(trades) > limit:
        last = trades[limit - 1].ts // _SECOND
        trades = [t for index, t in enumerate(trades) if index < limit or t.ts // _SECOND == last]
    fields: list[object] = []
    for trade in trades:
        price = decimal_text(trade.price, instrument.tick)
        size = decimal_text(trade.size, instrument.lot)
        fields += [trade.ts // _SECOND, 0, price, size, "NASDAQ", ""]
    return [message(98, request, len(trades), *fields, 1)]


def bars(
    request: str, instrument: SimulatedInstrument, now: int, size: str, duration: str
) -> list[str]:
    """Return the bars of the *duration* before *now*."""
    interval = _INTERVALS.get(size)
    count, _, unit = duration.partition(" ")
    if interval is None or unit not in _UNITS:
        return [error(request, 321, "Server error when validating: bar size or duration.")]
    since = now - int(count) * _UNITS[unit] * _SECOND
    fields: list[object] = []
    bars = instrument.bars(interval, since, now, 2_000)
    ended = [bar for bar in bars if bar.end <= now]
    for bar in ended:
        prices = (bar.open, bar.high, bar.low, bar.close)
        fields += [bar.start // _SECOND]
        fields += [decimal_text(price, instrument.tick) for price in prices]
        volume = decimal_text(bar.volume, instrument.lot)
        fields += [volume, average(bar, instrument), bar.trades]
    return [message(17, request, "", "", len(ended), *fields)]


def _moment(text: str) -> int:
    """Return the time of ``20261122 09:30:00 UTC``, or ``20261122-09:30:00``."""
    text = text.removesuffix(" UTC").replace("-", " ")
    moment = datetime.strptime(text, "%Y%m%d %H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * _SECOND
