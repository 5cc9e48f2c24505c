"""What the gateway answers about the past: trades and bars, off the same market."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .streams import average, error, joined, plain

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import MarketTrade, SimulatedInstrument

__all__ = ["bars", "ticks"]

_SECOND = 1_000_000_000
_SIZES = {"1 secs": "1s", "5 secs": "5s", "10 secs": "10s", "15 secs": "15s", "30 secs": "30s",
          "1 min": "1m", "5 mins": "5m", "1 hour": "1h", "1 day": "1d"}  # fmt: skip
_UNITS = {"S": 1, "D": 86_400, "W": 604_800}


def ticks(request: str, pit: SimulatedInstrument, start: str, most: int) -> list[str]:
    """Return the trades from *start* on: *most* of them, and what more there is of the last second."""
    since = _moment(start)
    first = pit.first_trade_since(since)
    found: list[MarketTrade] = [] if first is None else pit.trades(first.id, most + 1_000)
    if len(found) > most:
        last = found[most - 1].ts // _SECOND
        found = [
            fill for place, fill in enumerate(found) if place < most or fill.ts // _SECOND == last
        ]
    fields: list[object] = []
    for fill in found:
        price, size = plain(fill.price, pit.tick), plain(fill.size, pit.lot)
        fields += [fill.ts // _SECOND, 0, price, size, "NASDAQ", ""]
    return [joined(98, request, len(found), *fields, 1)]


def bars(request: str, pit: SimulatedInstrument, now: int, size: str, duration: str) -> list[str]:
    """Return the bars of the time before *now*."""
    interval = _SIZES.get(size)
    count, _, unit = duration.partition(" ")
    if interval is None or unit not in _UNITS:
        return [error(request, 321, "Server error when validating: bar size or duration.")]
    since = now - int(count) * _UNITS[unit] * _SECOND
    fields: list[object] = []
    found = [one for one in pit.bars(interval, since, now, 2_000) if one.end <= now]
    for candle in found:
        prices = (candle.open, candle.high, candle.low, candle.close)
        fields += [candle.start // _SECOND, *(plain(price, pit.tick) for price in prices)]
        fields += [plain(candle.volume, pit.lot), average(candle, pit), candle.trades]
    return [joined(17, request, "", "", len(found), *fields)]


def _moment(text: str) -> int:
    """Return the time of ``20261122 09:30:00 UTC``, or ``20261122-09:30:00``."""
    text = text.removesuffix(" UTC").replace("-", " ")
    moment = datetime.strptime(text, "%Y%m%d %H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * _SECOND
