"""What is streamed in a soak, and which faults are injected when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import tapeloom_simulator as simulator
from attrs import field, frozen
from tapeloom import FeedSpec
from tapeloom_simulator import Fault, venue_server
from tapeloom_simulator.faults import COMMON

SECOND = 1_000_000_000
#: Seconds without faults at the beginning and at the end, and up to how long before it all is told.
STARTS, QUIET, SETTLES = 15, 90, 15
#: Seconds between two faults of a venue, and between two changes of what is streamed, on average.
EVERY, CHANGES = 12.0, 10.0
#: Trades a second of each venue's market for each of its symbols. Where these have names, the stage
#: `quality` remembers 8,192 of each symbol, which takes hours: the more there are, the more memory grows.
RATE = 1.0
BASES = [
    "BTC",
    "ETH",
    "SOL",
    "BNB",
    "XRP",
    "ADA",
    "DOGE",
    "AVAX",
    "LINK",
    "LTC",
    "DOT",
    "UNI",
    "AAVE",
    "BAT",
    "BCH",
    "CRV",
    "GRT",
    "MKR",
    "SUSHI",
]


@frozen
class Place:
    """A venue and a market, and what is streamed of it."""

    venue: str
    market: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...] = ("trades", "quotes", "book")
    chaos: str = "named"  #: the stage of faults: "numbered", "named", or none
    unit: int = 1_000_000  #: ns in its unit of time
    settings: Mapping[str, Any] = field(factory=dict)

    @property
    def name(self) -> str:
        return f"{self.venue} {self.market}".rstrip()

    @property
    def feed(self) -> FeedSpec:
        books = ("books",) if "book" in self.channels else ()
        stages = *((self.chaos,) if self.chaos else ()), "quality", *books, "bars"
        return FeedSpec(
            self.venue, self.symbols, self.channels, market=self.market, name=self.name,
            stages=stages,
        )  # fmt: skip


def pairs(quote: str) -> tuple[str, ...]:
    return tuple(f"{base}/{quote}" for base in BASES)


PLACES = (
    Place("binance", "spot", pairs("USDT"), chaos="numbered"),
    Place("binance", "usdm", pairs("USDT:USDT"), chaos="numbered",
          settings={"futures_trades": "raw"}),
    Place("bybit", "linear", pairs("USDT:USDT")),
    Place("hyperliquid", "perp", pairs("USDC:USDC"), ("trades", "quotes", "book:20")),
    Place("alpaca", "crypto", pairs("USD"), unit=1, settings={"slot_pause": "2s"}),
    # An account has five streams of trades. Books and quotes of it carry no time.
    Place("ib", "", tuple(f"{one}/USD" for one in ("AAPL", "MSFT", "NVDA", "AMZN", "TSLA")),
          ("trades", "quotes"), chaos="", unit=SECOND,
          settings={"quotes": "top", "retry_every": "10s"}),
)  # fmt: skip


# ------------------------------------------------------------------------------------- the faults

#: How each kind is injected; where nothing is said: once, at its time, whatever comes next.
INJECTED: Mapping[str, Mapping[str, Any]] = {
    "ack_delay": {"seconds": 2},
    "disconnect": {"how": ("clean", "abrupt")},
    # It is the one text that is not said: of trades without numbers nobody would miss it.
    "chain_halt": {"channel": "book"},
    "clock_skew_ms": {"value": (-3000, 0, 1500, 4000)},
    "late_trade": {"value": (2, 4)},
    "lingering_session": {"seconds": 5},
    "max_age": {"seconds": (40, 70), "count": 2},
    "no_ping": {"count": 3},
    "ping_no_pong": {"count": 3},
    "rate_limit_rest": {"value": 429, "seconds": (5, 15), "count": 2},
    # A shorter one may end before anybody can tell it from a pause: continuity.md says how long.
    "silent_stall": {"seconds": 60, "how": ("stream", "all")},
}
_NAMELESS = "without ids nobody can tell a repeated trade from a second one of its kind"
_LATE = "one that is held back is lost with its connection, and without numbers nobody can tell"
_REFUSED = (
    "the subscription is refused for good: where one message asks for all, that ends the feed"
)
#: What is left out, and why: all else that a venue can have is injected.
LEFT_OUT: Mapping[tuple[str, str], str] = {
    **{(venue, kind): _LATE
       for venue in ("bybit", "hyperliquid", "alpaca", "ib") for kind in ("late_trade", "reorder")},
    **{(venue, "sub_error"): _REFUSED for venue in ("binance", "alpaca", "ib")},
    ("ib", "dup_trade"): _NAMELESS,
    ("ib", "ib_1100"): "it never ends: nothing comes any more, and the stream says so",
}  # fmt: skip


def kinds_of(venue: str, symbols: Sequence[str]) -> list[str]:
    """Return the faults that this venue can have and that can be accounted for."""
    market = simulator.SimulatedMarket(symbols, seed=0, rate=1)
    own = getattr(venue_server(venue, market), "faults", {})
    return [kind for kind in (*COMMON, *own) if (venue, kind) not in LEFT_OUT]


def faults_of(venue: str, symbols: Sequence[str], seed: int, until: float) -> list[Fault]:
    """Return faults of all kinds, at random times before *until*, about random symbols."""
    chance, faults = Random(f"{seed} {venue}"), []
    kinds = kinds_of(venue, symbols)
    wanted = max(len(kinds), int((until - STARTS) / EVERY))
    for number in range(wanted):
        if number % len(kinds) == 0:
            chance.shuffle(kinds)
        kind = kinds[number % len(kinds)]
        keys = {
            key: chance.choice(value) if isinstance(value, tuple) else value
            for key, value in INJECTED.get(kind, {}).items()
        }
        # A dial too many costs a pause of minutes.
        last = min(until, STARTS + 60) if kind == "dial_limit" else until
        at = round(chance.uniform(STARTS, last), 1)
        if (
            kind == "silent_stall"
        ):  # what speaks seldom may be silent for longer, and nobody wonders
            keys["symbol"] = chance.choice(symbols[:3])
        faults.append(Fault(kind=kind, at=at, until=until, **keys))
    return faults


def doses(until: float, **chances: Mapping[str, Any] | float) -> dict[str, Any]:
    """Return faults of `chaos` that begin and end with those of the venues."""
    span = {"at": STARTS, "until": until, "count": 0}
    return {
        kind: {**(one if isinstance(one, Mapping) else {"chance": one}), **span}
        for kind, one in chances.items()
    }


def on_messages(until: float) -> dict[str, Any]:
    """What is done to messages whose trades have names.

    Nothing is left out: a stream without numbers cannot tell, here as in the world. Nor is the order
    changed, which is the venue's where no number says otherwise.
    """
    return doses(
        until, refuse=0.1, slow_dial={"chance": 0.1, "seconds": 3.0},
        reset={"chance": 0.001, "period": 120}, close={"chance": 0.001, "period": 120},
        half_open={"chance": 0.001, "period": 180}, stall={"chance": 0.001, "period": 60, "seconds": 4.0},
        delay={"chance": 0.002, "seconds": 0.2}, split=0.01, duplicate=0.003, corrupt=0.001,
    )  # fmt: skip


def on_numbered(until: float) -> dict[str, Any]:
    """The same, where numbers tell what was left out, and what was overtaken."""
    return {**on_messages(until), **doses(until, drop=0.001, reorder=0.001)}


def on_wire(until: float) -> dict[str, Any]:
    """What the relays do. No bit is flipped: in plain text that makes a 3 of a 2."""
    return doses(
        until, refuse=0.05, slow={"chance": 0.05, "rate": 300_000},
        reset={"chance": 0.001, "period": 60}, close={"chance": 0.001, "period": 60},
        half_open={"chance": 0.001, "period": 180}, stall={"chance": 0.001, "period": 60, "seconds": 3.0},
        delay={"chance": 0.002, "seconds": 0.2}, split=0.01,
    )  # fmt: skip
