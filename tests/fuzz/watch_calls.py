"""ccxt: the structures that its watch calls return, good and broken, through the parsers of the plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from tapeloom import Event
from tapeloom.plugin import Feed
from tapeloom.plugin.bounds import reject_out_of_bounds
from tapeloom_ccxt.parsers import CrossedError, make_parser
from tapeloom_simulator import EPOCH
from tapeloom_testing import VirtualClock
from tapeloom_testing.fuzz import mutants

from .venues import BROKEN, KEPT


def _structures(n: int) -> dict[str, Any]:
    """Return what the watch calls of a symbol return at step *n*, by channel."""
    ms = (EPOCH // 1_000_000) + n * 100
    return {
        "trades": [
            {"id": str(n), "timestamp": ms, "side": "buy", "price": f"1{n % 7}.50", "amount": "0.10"}
        ],
        "quotes": {"bid": f"9.{n}", "bidVolume": "1", "ask": "10", "askVolume": "2", "timestamp": ms},
        "book": {
            "timestamp": ms,
            "nonce": n,
            "bids": [["9.5", f"{n + 1}"], ["9.4", "1.5"]],
            "asks": [["9.6", "1"], ["9.7", f"{n + 1}.25"]],
        },
        "klines:1m": [[ms - ms % 60_000, "1.5", "2.5", "1.25", f"2.{n}", "100.5"]],
        "ticker": {"timestamp": ms, "last": f"1.{n}", "open": "1", "high": "9", "low": "0.5",
                   "baseVolume": "7", "quoteVolume": "70"},
    }  # fmt: skip


def _items(symbol: str, count: int) -> list[bytes]:
    return [
        json.dumps([symbol, channel, {symbol: data} if channel == "quotes" else data]).encode()
        for n in range(count)
        for channel, data in _structures(n).items()
    ]


def good() -> list[bytes]:
    """Return what watch calls return about the symbol that is left alone, each as JSON."""
    return _items(KEPT, 120)


def broken(chance: Random) -> Iterator[bytes]:
    """Yield the same about the other symbol, broken, without end."""
    by_channel: dict[str, list[bytes]] = {}
    for item in _items(BROKEN, 20):
        _, channel, data = json.loads(item)
        by_channel.setdefault(channel, []).append(json.dumps(data).encode())
    sources = {channel: mutants(bodies, chance) for channel, bodies in by_channel.items()}
    while True:
        channel = chance.choice(list(sources))
        yield b'["%s", "%s", ' % (BROKEN.encode(), channel.encode()) + next(sources[channel]) + b"]"


class WatchCalls:
    """The parsers of the plugin; `read` takes what watch calls have returned, each as JSON."""

    def __init__(self) -> None:
        self._clock = VirtualClock(EPOCH)
        feed = Feed("f", "ccxt-acme", "acme", [KEPT, BROKEN], clock=self._clock)
        self._parsers = {
            (symbol, channel): make_parser(
                feed, symbol, channel, numbered=channel == "trades", snapshot_every=60.0
            )
            for symbol in (KEPT, BROKEN)
            for channel in _structures(0)
        }

    def read(self, items: Sequence[bytes]) -> list[Event]:
        """Return the events of several calls."""
        self._clock.advance(0.01)
        events: list[Event] = []
        for item in items:
            try:
                symbol, channel, data = json.loads(item, parse_float=Decimal)
            except (ValueError, RecursionError, TypeError):
                continue  # ccxt would have failed on it
            parser = self._parsers[symbol, channel]
            try:
                events += parser(data, self._clock.time_ns())
            except CrossedError:
                parser.reset()
        return reject_out_of_bounds(events)
