"""Interactive Brokers: messages of a gateway, good and broken, through the reading of ib_async."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from decimal import Decimal
from random import Random

from ib_async import Contract
from tapeloom import Event
from tapeloom.plugin import Feed
from tapeloom.plugin.bounds import reject_out_of_bounds
from tapeloom_ib import Settings
from tapeloom_ib.pacing import Pacing
from tapeloom_ib.session import Session
from tapeloom_ib.wire import BookRows, SubscriptionState
from tapeloom_simulator import EPOCH
from tapeloom_testing import VirtualClock
from tapeloom_testing.fuzz import mutants

from .venues import BROKEN, KEPT

#: A request id and a message for each channel, for the broken symbol; "|" separates the texts.
_MESSAGES = [
    ("17", "99|17|1|1700000000|190.120|0.10000000|0|NASDAQ| T I"),
    ("18", "99|18|3|1700000000|190.11|190.13|300|200|0"),
    ("19", "50||19|1700000000|4028.75|4029.00|4028.25|4028.50|2|4026.75|1"),
    ("20", "12||20|0|1|1|185.50|100"),
    ("20", "13||20|0|ISLAND|1|0|185.60|100|1"),
    ("21", "1|2|21|1|185.50|100|7"),
    ("21", "2||21|0|100"),
    ("17", "4|2|17|2104|Market data farm connection is OK:usfarm|"),
]
_TEXTS = [
    "", "9" * 18, "9" * 4298, "9" * 5000, "-" + "9" * 4298, "1E-999999", "1E+999999", "0E-999999",
    "NaN", "sNaN", "NaN123", "-Infinity", "253402300800", "1e400", "0x10", "1_0", "\u0663", "\ud800",
    "\x1b]0;title\x07\r\n", "x" * 5000, "0", "-1", "1" * 40, "0." + "0" * 300 + "1", "[" * 2000,
]  # fmt: skip
_CHANNELS = ("trades", "quotes", "klines:5s", "book:5", "quotes")


def _message(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def good() -> list[bytes]:
    """Return messages about the symbol that is left alone: trades, quotes and bars."""
    return [
        _message(text.encode().replace(b"|", b"\0") + b"\0")
        for n in range(300)
        for text in (
            f"99|7|1|{1700000000 + n}|190.{n:03}|0.5|0|NASDAQ|",
            f"99|8|3|{1700000000 + n}|190.11|191.{n:03}|300|200|0",
        )
    ]


def broken(chance: Random) -> Iterator[bytes]:
    """Yield broken messages about the other symbol, without end."""
    bodies = [text.encode().replace(b"|", b"\0") + b"\0" for _, text in _MESSAGES]
    raw = mutants(bodies, chance)
    while True:
        if chance.random() < 0.3:
            yield _message(next(raw).replace(b"\x007\x00", b"\x00").replace(b"\x008\x00", b"\x00"))
            continue
        req_id, text = chance.choice(_MESSAGES)
        fields = text.split("|")
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            index = chance.randrange(len(fields))
            match chance.randrange(8):
                case 0:
                    del fields[index]
                    fields = fields or [""]
                case 1:
                    fields.insert(index, chance.choice(fields))
                case _ if index and fields[index] != req_id:
                    fields[index] = chance.choice(_TEXTS)
        yield _message("\0".join(fields).encode(errors="surrogatepass") + b"\0")


class Gateway:
    """A session of the plugin without a connection; `read` takes the bytes of one read."""

    def __init__(self) -> None:
        self._clock = VirtualClock(EPOCH)
        feed = Feed("f", "ib", "", [KEPT, BROKEN], _CHANNELS[:4], clock=self._clock)
        self._session = Session(feed, Settings(), Pacing(15.0), 1)
        self._states = {
            str(first + number): self._state(symbol, channel, first + number)
            for symbol, first in ((KEPT, 7), (BROKEN, 17))
            for number, channel in enumerate(_CHANNELS)
        }
        client = self._session._client
        client.connState, client._apiReady, client._serverVersion = client.CONNECTED, True, 178
        client.decoder.serverVersion = 178
        client.updateReqId(1000)  # the session requests broken books anew, with ids from here on

    @staticmethod
    def _state(symbol: str, channel: str, number: int) -> SubscriptionState:
        rows = BookRows(5) if channel.startswith("book") else None
        top: dict[str, Decimal | None] | None = {} if number % 10 == 1 else None
        return SubscriptionState("ib", symbol, channel, Contract(), rows, top)

    def read(self, messages: Sequence[bytes]) -> list[Event]:
        """Return the events of one read."""
        self._clock.advance(0.01)
        # What a broken message has ended is requested anew, as the session would do.
        self._session.subscriptions.by_request.update(self._states)
        self._session._client._onSocketHasData(b"".join(messages))
        events = [event for batch in self._session._batches for event in batch]
        self._session._batches.clear()
        return reject_out_of_bounds(events)
