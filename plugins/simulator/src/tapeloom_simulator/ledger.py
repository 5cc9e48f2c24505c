"""Compare the trades a simulated venue sent with the events a stream delivered.

Each trade of the streamed period must be accounted for exactly once: delivered live, backfilled, inside
a reported gap, rejected, or sent while its subscription was stalled or refused to the end. A trade that
is not accounted for is lost; a trade that is delivered twice is duplicated. Both are errors.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, field
from tapeloom.events import Gap, Quote, Reject, Status, Trade

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tapeloom.events import Event

    from .truth import TrueTrade, Truth
    from .truth_file import TruthFile

__all__ = ["Account", "Ledger", "count_reports", "impossible_quotes"]

_SECOND = 1_000_000_000
#: Identifies a trade: its price, its size and its time in the venue's unit of time.
Key: TypeAlias = tuple[Any, Any, int]


@define
class Account:
    """How many trades of one symbol were sent, and how each of them was accounted for."""

    symbol: str
    sent: int = 0
    live: int = 0
    backfilled: int = 0
    in_gaps: int = 0  #: inside a reported gap that was not filled
    #: sent after the subscription was reported stalled or refused, with no live trade since
    while_stalled: int = 0
    rejected: int = 0
    lost: list[TrueTrade] = field(factory=list)  #: neither delivered nor reported as missing
    duplicated: list[Event] = field(factory=list)
    unknown: list[Event] = field(factory=list)  #: delivered, but never sent by the venue
    out_of_order: list[Event] = field(factory=list)  #: live, delivered after a later trade
    wrong_gaps: list[str] = field(factory=list)  #: descriptions of gaps that contradict the truth

    @property
    def balanced(self) -> bool:
        """Whether every trade is accounted for once and in order, and nothing else was delivered."""
        return not (
            self.lost or self.duplicated or self.unknown or self.out_of_order or self.wrong_gaps
        )

    def __str__(self) -> str:
        text = (
            f"{self.symbol}: {self.sent} sent = {self.live} live + {self.backfilled} backfilled"
            f" + {self.in_gaps} in gaps + {self.while_stalled} while stalled + {self.rejected} rejected"
        )
        for name in ("lost", "duplicated", "unknown", "out_of_order", "wrong_gaps"):
            if errors := getattr(self, name):
                text += f"; {len(errors)} {name}, the first {errors[0]}"
        return text


class Ledger:
    """Collect the events of one feed and account for the venue's trades by symbol.

    *channel* is the channel of the trades. *unit* is the venue's unit of time in ns. The sides of trades
    are not compared. *slack* is in ns: how far a rejected frame may be from the trade it contained, and
    how far a status "stalled" or "refused", timed on the local clock, from the trades it accounts for.
    """

    def __init__(
        self,
        truth: Truth | TruthFile,
        *,
        channel: str = "trades",
        unit: int = 1_000_000,
        slack: int = _SECOND,
    ) -> None:
        self._truth, self._channel, self._unit, self._slack = truth, channel, unit, slack
        self.events: list[Event] = []

    def add(self, events: Iterable[Event]) -> None:
        """Add delivered events in order; only events of type Trade, Gap, Reject and Status are kept."""
        self.events += [event for event in events if type(event) in (Trade, Gap, Reject, Status)]

    def accounts(self, symbols: Sequence[str], since: int, until: int) -> list[Account]:
        """Account for the trades from *since* (inclusive) to *until* (exclusive), in ns of market time."""
        return [self._account(symbol, since, until) for symbol in symbols]

    # -------------------------------------------------------------------------------- accounting

    def _key(self, trade: Trade | TrueTrade) -> Key:
        return trade.price, trade.size, trade.ts // self._unit

    def _account(self, symbol: str, since: int, until: int) -> Account:
        account = Account(symbol)
        all_trades = self._truth.trades(symbol)
        true_trades = [trade for trade in all_trades if since <= trade.ts < until]
        account.sent = len(true_trades)
        channel_events = [
            event
            for event in self.events
            if event.symbol == symbol and event.channel == self._channel
        ]
        delivered = [event for event in channel_events if type(event) is Trade]
        counts = self._count_delivered(
            account, delivered, Counter(map(self._key, all_trades)), since, until
        )
        self._find_out_of_order(account, delivered, all_trades)
        gaps = self._unfilled_gaps(account, channel_events, all_trades)
        self._account_for_missing(account, true_trades, counts, gaps)
        return account

    def _count_delivered(
        self,
        account: Account,
        delivered: Sequence[Trade],
        true_trades: Counter[Key],
        since: int,
        until: int,
    ) -> Counter[Key]:
        """Count the delivered trades in *account*, and return how often each key was delivered."""
        counts: Counter[Key] = Counter()
        for trade in delivered:
            key = self._key(trade)
            counts[key] += 1
            if not true_trades[key]:
                account.unknown.append(trade)
            elif counts[key] > true_trades[key]:
                account.duplicated.append(trade)
            elif since <= trade.ts < until and trade.origin == "live":
                account.live += 1
            elif since <= trade.ts < until:
                account.backfilled += 1
        return counts

    def _find_out_of_order(
        self, account: Account, delivered: Sequence[Trade], all_trades: Sequence[TrueTrade]
    ) -> None:
        """Record live trades delivered after a later one; trades of one timestamp have no order."""
        last = 0
        for trade in delivered:
            if trade.origin != "live":
                continue
            if trade.ts // self._unit < last:
                account.out_of_order.append(trade)
            last = max(last, trade.ts // self._unit)

    def _unfilled_gaps(
        self, account: Account, channel_events: Sequence[Event], all_trades: Sequence[TrueTrade]
    ) -> list[Gap]:
        """Return the gaps not filled at the end; record the gaps that contradict the truth."""
        last: dict[tuple[object, ...], Gap] = {}
        for gap in channel_events:
            if type(gap) is Gap:
                last[gap.since, gap.after_id, gap.cause] = gap
        for gap in last.values():
            trades_within = sum(gap.since < trade.ts < gap.until for trade in all_trades)
            if gap.missing is not None and gap.missing > trades_within + 2:
                account.wrong_gaps.append(
                    f"{gap.missing} trades reported missing, but {trades_within} were made: {gap}"
                )
            if gap.since > gap.until:
                account.wrong_gaps.append(f"a gap that ends before it begins: {gap}")
        return [gap for gap in last.values() if gap.state != "filled"]

    def _account_for_missing(
        self,
        account: Account,
        true_trades: Sequence[TrueTrade],
        counts: Counter[Key],
        gaps: Sequence[Gap],
    ) -> None:
        """Account for each trade that was not delivered, or record it as lost."""
        rejects = [
            event
            for event in self.events
            if type(event) is Reject and event.symbol in ("", account.symbol)
        ]
        stalled_since = self._stalled_since(account.symbol)
        unmatched = counts.copy()
        for trade in true_trades:
            key = self._key(trade)
            if unmatched[key]:
                unmatched[key] -= 1
            elif any(self._covers(gap, trade) for gap in gaps):
                account.in_gaps += 1
            elif any(self._reject_explains(reject, trade) for reject in rejects):
                account.rejected += 1
            elif stalled_since is not None and trade.ts >= stalled_since - self._slack:
                account.while_stalled += 1
            else:
                account.lost.append(trade)

    def _stalled_since(self, symbol: str) -> int | None:
        """Return when the trades were reported stalled or refused; None if a live trade followed."""
        since: int | None = None
        for event in self.events:
            if event.symbol == symbol and event.channel == self._channel:
                if type(event) is Status and event.state in ("stalled", "refused"):
                    # The first status counts; a repeated one changes nothing.
                    since = event.ts if since is None else since
                elif type(event) is Trade and event.origin == "live":
                    since = None
        return since

    def _covers(self, gap: Gap, trade: TrueTrade) -> bool:
        return gap.since - self._unit <= trade.ts <= gap.until + self._unit

    def _reject_explains(self, reject: Reject, trade: TrueTrade) -> bool:
        event = reject.event
        if type(event) is Trade:
            return self._key(event) == self._key(trade)
        return event is None and abs(reject.recv - trade.ts) <= self._slack


def count_reports(events: Iterable[Event], counters: Counter[str] | None = None) -> Counter[str]:
    """Return how often each gap cause, gap state, reject rule and status was reported.

    *counters* that are not 0 are included as "counter <name>", except those of rejects.
    """
    counts: Counter[str] = Counter()
    for event in events:
        if type(event) is Gap:
            counts[f"gap {event.cause}"] += 1
            counts[f"verdict {event.state}"] += 1
        elif type(event) is Reject:
            counts[f"reject {event.rule}"] += 1
        elif type(event) is Status:
            counts[f"status {event.state}"] += 1
    for name, count in (counters or {}).items():
        if count and not name.startswith("reject."):
            counts[f"counter {name}"] += count
    return counts


def impossible_quotes(truth: Truth, symbol: str, quotes: Iterable[Quote]) -> list[Quote]:
    """Return the quotes of *symbol* whose best bid and ask the market never had.

    The market always has both sides; of a quote with an empty side, the other side is checked.
    """
    pairs = {tuple(quoted[2:]) for quoted in truth.quotes(symbol)} | {truth.first_quote[symbol]}
    no_side = None, None
    possible = {
        (*bid, *ask) for pair in pairs for bid in (pair[:2], no_side) for ask in (pair[2:], no_side)
    }
    return [
        quote
        for quote in quotes
        if quote.symbol == symbol
        and (quote.bid, quote.bid_size, quote.ask, quote.ask_size) not in possible
    ]
