"""Turns what a market shows into texts: rows of tables, all digits of a number, ages that a person reads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tapeloom.events import Trade
from tapeloom_screens import FeedHealth, GapEntry, Health, LadderView, SymbolRow

__all__ = [
    "connections", "duration", "feeds", "gaps", "ladder", "number", "queues", "stages", "symbols", "tape",
    "time_of_day",
]  # fmt: skip

_SECOND = 1_000_000_000


def number(value: Decimal | None) -> str:
    """Return a number with all its digits, without the zeros that venues add."""
    if value is None:
        return "–"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(ns: int | None) -> str:
    """Return a duration in the unit that suits it; "–" if there is none."""
    if ns is None:
        return "–"
    if abs(ns) < 10 * 1_000_000:
        return f"{ns / 1e6:.1f} ms"
    if abs(ns) < _SECOND:
        return f"{ns / 1e6:.0f} ms"
    return f"{ns / 1e9:.1f} s" if ns < 60 * _SECOND else f"{ns // (60 * _SECOND)} min"


def time_of_day(ns: int) -> str:
    """Return a time as hours, minutes, seconds and milliseconds, in UTC."""
    at = datetime.fromtimestamp(ns // _SECOND, UTC)
    return f"{at:%H:%M:%S}.{ns % _SECOND // 1_000_000:03}"


def symbols(rows: Iterable[SymbolRow]) -> list[dict[str, Any]]:
    """Return the rows of the overview."""
    return [
        {
            "key": f"{row.venue} {row.symbol}",
            "venue": row.venue,
            "symbol": row.symbol,
            "last": number(row.last),
            "direction": row.direction,
            "bid": number(row.bid),
            "ask": number(row.ask),
            "spread": number(row.spread),
            "rate": round(row.event_rate, 1),
            "lag": f"{duration(row.lag_p50)} / {duration(row.lag_p99)}",
            "age": duration(row.staleness),
            "gaps": row.gaps,
            "rejects": row.rejects,
        }
        for row in rows
    ]


def ladder(view: LadderView | None, levels: int) -> tuple[list[dict[str, Any]], ...]:
    """Return the rows of asks, the highest first, and of bids, each with its share of the largest size."""
    if view is None:
        return [], []
    asks, bids = view.asks[:levels], view.bids[:levels]
    largest = max((size for _, size in (*asks, *bids)), default=Decimal(1)) or Decimal(1)
    sides = []
    for name, side in (("ask", asks[::-1]), ("bid", bids)):
        sides.append(
            [
                {
                    "price": number(price),
                    "size": number(size),
                    "side": name,
                    "share": round(float(size / largest) * 100),
                }
                for price, size in side
            ]
        )
    return tuple(sides)


def tape(trades: Iterable[Trade]) -> list[dict[str, Any]]:
    """Return the rows of the last trades."""
    return [
        {
            "n": f"{trade.id}",
            "time": time_of_day(trade.ts),
            "price": number(trade.price),
            "size": number(trade.size),
            "side": trade.side or "",
            "origin": "" if trade.origin == "live" else trade.origin,
        }
        for trade in trades
    ]


def gaps(entries: Iterable[GapEntry]) -> list[dict[str, Any]]:
    """Return the rows of the gap ledger."""
    return [
        {
            "key": str(index),
            "found": time_of_day(entry.first_reported),
            "venue": entry.gap.venue,
            "symbol": entry.gap.symbol or "all",
            "channel": entry.gap.channel or "all",
            "cause": entry.gap.cause,
            "missing": "?" if entry.gap.missing is None else str(entry.gap.missing),
            "length": duration(entry.gap.until - entry.gap.since),
            "state": entry.gap.state,
        }
        for index, entry in enumerate(entries)
    ]


def feeds(health: Health) -> list[dict[str, Any]]:
    """Return the rows of the feeds."""
    return [
        {
            "name": feed.state.name,
            "venue": feed.state.venue,
            "condition": feed.condition,
            "connections": f"{feed.connected} of {len(feed.state.connections)}",
            "live": f"{len(feed.state.live)}",
            "frames": f"{feed.rates.get('frames', 0):.0f}/s",
            "reconnects": feed.state.counters.get("reconnects", 0),
            "open_gaps": feed.state.open_gaps,
            # Below 0 it is the way to us, or the venue's clock behind ours: that cannot be told apart.
            "clock": duration(max(feed.state.clock_offset or 0, 0) or None),
            "error": feed.state.error,
        }
        for feed in health.feeds
    ]


def connections(health: Health) -> list[dict[str, Any]]:
    """Return the rows of the connections."""
    return [
        {
            "label": connection.label,
            "feed": feed.state.name,
            "age": "not connected"
            if connection.connected_seconds is None
            else duration(round(connection.connected_seconds * 1e9)),
            "live": f"{len(connection.live)} of {len(connection.wanted)}",
        }
        for feed in health.feeds
        for connection in feed.state.connections
    ]


def queues(health: Health) -> list[dict[str, Any]]:
    """Return the rows of the queues."""
    return [
        {
            "name": queue.state.name,
            "kind": "sink" if queue.state.is_sink else "consumer",
            "fill": f"{queue.fill:.0%}",
            "rate": f"{queue.received_rate:.0f}/s",
            "dropped": queue.state.dropped,
            "policy": queue.state.policy,
        }
        for queue in health.queues
    ]


def stages(health: Health) -> list[dict[str, Any]]:
    """Return the rows of the stages."""
    return [_stage(feed, index) for feed in health.feeds for index in range(len(feed.stages))]


def _stage(feed: FeedHealth, index: int) -> dict[str, Any]:
    stage = feed.stages[index]
    return {
        "key": f"{feed.state.name} {stage.name}",
        "feed": feed.state.name,
        "stage": stage.name,
        "events": f"{stage.events_rate:.0f}/s",
        "time": f"{stage.microseconds_per_event:.2f} µs",
        "load": f"{stage.load:.1%}",
    }
