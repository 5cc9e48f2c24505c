"""De-duplication of Hyperliquid trades, which the venue repeats after each subscription.

The venue sends the last trades once more, without a mark, as the first batch after its
acknowledgement. `TradeDedup` stands between the parser of frames and its events. It decides from the
frames and their order alone, so that the same frames give the same events, live and from a tape,
and independently of how they are batched.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from tapeloom.events import Side, Trade

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tapeloom.events import Origin

__all__ = ["TradeDedup", "TradeMessage", "oldest_first", "trade_event"]

#: Nanoseconds in a millisecond, the unit of the venue's times.
_MS = 1_000_000
#: The taker's side by the venue's letter: A (ask) is a taker who sold, B (bid) one who bought.
_SIDES: dict[str, Side] = {"A": "sell", "B": "buy"}


#: {"coin":"HYPE","side":"B","px":"35.276","sz":"5.78","time":1764835613064,
#: "hash":"0x0000000000000000000000000000000000000000000000000000000000000000",
#: "tid":716095722814130,"users":["0x8cdba352268065be9d5444e1f82b8fe83717bbd5",
#: "0x13558be785661958932ceac35ba20de187275a42"]}
class TradeMessage(Struct, gc=False):
    """A trade. `side` is the taker's. `tid` is a hash, so ids do not increase."""

    coin: str
    side: Literal["A", "B"]
    px: Decimal
    sz: Decimal
    time: int
    tid: int


def trade_event(
    venue: str, symbol: str, message: TradeMessage, recv: int, origin: Origin = "live"
) -> Trade:
    """Return the `Trade` event of a message."""
    fields = venue, symbol, message.time * _MS, recv
    side, id_text = _SIDES[message.side], str(message.tid)
    return Trade(*fields, message.px, message.sz, side, id_text, "trades", origin)


def oldest_first(messages: Sequence[TradeMessage]) -> Sequence[TradeMessage]:
    """Return past trades in the order in which they were made.

    The venue sends them in this order, or in the reverse one; which of both is not documented. Their
    times need not all increase: the venue's clock may have been set between two of them. Where the times
    go up and down, the trades are sorted.
    """
    steps = [later.time - message.time for message, later in pairwise(messages)]
    falls, rises = sum(step < 0 for step in steps), sum(step > 0 for step in steps)
    if 2 * min(falls, rises) > max(falls, rises):
        return sorted(messages, key=lambda message: message.time)
    return messages[::-1] if falls > rises else messages


class _SeenTrades:
    """The trades of one coin that were seen before.

    Time and id are stored as one number, which takes half the memory of a tuple. The set is replaced
    when it is full, and one older set is kept, so at least `limit` trades are remembered.
    """

    __slots__ = ("expects_replay", "history_end_ms", "older", "recent", "replay_before_ack")

    def __init__(self) -> None:
        self.recent: set[int] = set()
        self.older: set[int] = set()
        #: Whether the next batch repeats trades from before the subscription.
        self.expects_replay = True
        #: Whether such a batch came before the acknowledgement of its subscription.
        self.replay_before_ack = False
        #: Time of the newest trade before the first subscription, in ms; None until it is known.
        self.history_end_ms: int | None = None

    def add(self, message: TradeMessage, limit: int) -> bool:
        """Add a trade; return False if it was there already."""
        key = message.time << 64 | message.tid
        if key in self.recent or key in self.older:
            return False
        if len(self.recent) >= limit:
            self.older, self.recent = self.recent, set()
        self.recent.add(key)
        return True

    def has(self, message: TradeMessage) -> bool:
        key = message.time << 64 | message.tid
        return key in self.recent or key in self.older


class TradeDedup:
    """Separates new trades from those that the venue repeats after each subscription.

    At least *limit* trades per coin are remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[str, _SeenTrades] = {}
        #: Coins that are acknowledged, and whose first batch has not come yet; in order.
        self._pending: dict[str, None] = {}
        #: Number of batches without a trade, which therefore do not name their coin.
        self._empty_batches = 0

    def forget(self, coin: str) -> None:
        """Forget a coin that is no longer subscribed to."""
        self._seen.pop(coin, None)
        self._resolve(coin)

    def acknowledged(self, coin: str) -> None:
        """Expect repeated trades of *coin*, whose subscription the venue has acknowledged."""
        seen = self._seen.setdefault(coin, _SeenTrades())
        if seen.replay_before_ack:
            seen.replay_before_ack = False
        else:
            # Still pending: that was another connection, and its empty batches do not count here.
            if coin in self._pending:
                self._empty_batches = 0
            seen.expects_replay = True
            self._pending[coin] = None

    def empty_batch(self) -> None:
        """Process a batch without a trade: one of the pending coins has no past trades."""
        self._empty_batches += 1
        self._resolve("")

    def _resolve(self, coin: str) -> None:
        """End the wait for the first batch of *coin*.

        If no more coins are pending than empty batches came, all of these are without past trades,
        and their wait ends too.
        """
        self._pending.pop(coin, None)
        if len(self._pending) <= self._empty_batches:
            for pending in self._pending:
                seen = self._seen[pending]
                seen.expects_replay, seen.history_end_ms = False, seen.history_end_ms or 0
            self._pending.clear()
            self._empty_batches = 0

    def classify(
        self, coin: str, messages: Sequence[TradeMessage]
    ) -> Iterator[tuple[TradeMessage, Origin | Literal["repeated", "duplicate"]]]:
        """Yield each trade of a batch of *coin* with its origin.

        "repeated" is a known trade that a new subscription repeats, "duplicate" a known trade that
        came again for no reason.
        """
        seen = self._seen.get(coin) or self._seen.setdefault(coin, _SeenTrades())
        if not seen.expects_replay:
            # Some are known and some are new: a new subscription, whose acknowledgement is late.
            known = [seen.has(message) for message in messages]
            seen.expects_replay = any(known) and not all(known)
        replay, limit = seen.expects_replay, self._limit
        if replay:
            messages = oldest_first(messages)
            seen.expects_replay, seen.replay_before_ack = False, coin not in self._pending
            self._resolve(coin)
        else:
            seen.replay_before_ack = False
        # Trades from before the first subscription come before one that is known; their time alone is no
        # sign, because the venue's clock may have been set back.
        places = [place for place, message in enumerate(messages) if replay and seen.has(message)]
        history_until = places[-1] if places else 0
        if seen.history_end_ms is None:
            seen.history_end_ms, history_until = messages[-1].time, len(messages)
        history_end_ms = seen.history_end_ms
        for place, message in enumerate(messages):
            if not seen.add(message, limit):
                yield message, "repeated" if replay else "duplicate"
            elif not replay:
                yield message, "live"
            else:
                is_past = place < history_until and message.time <= history_end_ms
                yield message, "history" if is_past else "backfill"
