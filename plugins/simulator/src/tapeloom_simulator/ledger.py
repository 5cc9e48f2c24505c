"""A ledger: what a simulated venue sent, held against what came out of a stream.

For every trade in the time that was streamed it has one entry: it was delivered live, it was fetched, a
gap tells of it, a reject does, or the subscription was called silent or refused, and is so still. What
has no entry is lost, what has two of the first came twice. Neither may be.
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
#: What a trade is known by: its price, its size, its time in the venue's unit.
Key: TypeAlias = tuple[Any, Any, int]


@define
class Account:
    """The entries of one symbol: how many trades were sent, and what became of each."""

    symbol: str
    sent: int = 0
    live: int = 0
    backfilled: int = 0
    in_gaps: int = 0  #: told of by a gap that was not filled
    while_stalled: int = (
        0  #: behind a word that the subscription is silent or refused; nothing came since
    )
    rejected: int = 0
    lost: list[TrueTrade] = field(factory=list)  #: of which nothing tells
    duplicated: list[Event] = field(factory=list)
    unknown: list[Event] = field(factory=list)  #: of which the venue knows nothing
    out_of_order: list[Event] = field(factory=list)  #: live, and behind a later one
    wrong_gaps: list[str] = field(factory=list)  #: gaps that say what is not so

    @property
    def balanced(self) -> bool:
        """Whether every trade has one entry, in order, and there is no entry without a trade."""
        return not (
            self.lost or self.duplicated or self.unknown or self.out_of_order or self.wrong_gaps
        )

    def __str__(self) -> str:
        text = (
            f"{self.symbol}: {self.sent} sent = {self.live} live + {self.backfilled} fetched"
            f" + {self.in_gaps} in gaps + {self.while_stalled} in silence + {self.rejected} rejected"
        )
        for name in ("lost", "twice", "invented", "disordered", "wrong"):
            if some := getattr(self, name):
                text += f"; {len(some)} {name}, the first {some[0]}"
        return text


class Ledger:
    """What came of one feed, by symbol.

    *channel* is that of the trades. *unit* is the ns of the venue's unit of time; *sides* is not
    asked for here. *slack* is how far, in ns, a reject of a frame may lie from the trade that was in it,
    and the word that a subscription is silent or refused, on our clock, from what it is about.
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
        """Enter what came out, in order; only what the ledger asks for is kept."""
        self.events += [one for one in events if type(one) in (Trade, Gap, Reject, Status)]

    def accounts(self, symbols: Sequence[str], since: int, until: int) -> list[Account]:
        """Close the books on the trades of the market's time *since* to before *until*, in ns."""
        return [self._account(symbol, since, until) for symbol in symbols]

    # -------------------------------------------------------------------------------- the entries

    def _key(self, trade: Trade | TrueTrade) -> Key:
        return trade.price, trade.size, trade.ts // self._unit

    def _account(self, symbol: str, since: int, until: int) -> Account:
        account = Account(symbol)
        everything = self._truth.trades(symbol)
        real = [trade for trade in everything if since <= trade.ts < until]
        account.sent = len(real)
        mine = [one for one in self.events if one.symbol == symbol and one.channel == self._channel]
        came = [one for one in mine if type(one) is Trade]
        counts = self._entered(account, came, Counter(map(self._key, everything)), since, until)
        self._in_order(account, came, everything)
        gaps = self._gaps(account, mine, everything)
        self._missing(account, real, counts, gaps)
        return account

    def _entered(
        self, account: Account, came: Sequence[Trade], real: Counter[Key], since: int, until: int
    ) -> Counter[Key]:
        """Enter what was delivered."""
        counts: Counter[Key] = Counter()
        for trade in came:
            key = self._key(trade)
            counts[key] += 1
            if not real[key]:
                account.unknown.append(trade)
            elif counts[key] > real[key]:
                account.duplicated.append(trade)
            elif since <= trade.ts < until and trade.origin == "live":
                account.live += 1
            elif since <= trade.ts < until:
                account.backfilled += 1
        return counts

    def _in_order(
        self, account: Account, came: Sequence[Trade], everything: Sequence[TrueTrade]
    ) -> None:
        """Enter what came live behind a later one; nobody can order what one moment brought."""
        last = 0
        for trade in came:
            if trade.origin != "live":
                continue
            if trade.ts // self._unit < last:
                account.out_of_order.append(trade)
            last = max(last, trade.ts // self._unit)

    def _gaps(
        self, account: Account, mine: Sequence[Event], everything: Sequence[TrueTrade]
    ) -> list[Gap]:
        """Return the gaps that stand in the end; enter those that say what is not so."""
        last: dict[tuple[int, int, str], Gap] = {}
        for gap in mine:
            if type(gap) is Gap:
                last[gap.since, gap.until, gap.cause] = gap
        for gap in last.values():
            within = sum(gap.since < trade.ts < gap.until for trade in everything)
            if gap.missing is not None and gap.missing > within + 2:
                account.wrong_gaps.append(f"{gap.missing} missing, where {within} were sold: {gap}")
            if gap.since > gap.until:
                account.wrong_gaps.append(f"a gap that ends before it begins: {gap}")
        return [gap for gap in last.values() if gap.state != "filled"]

    def _missing(
        self, account: Account, real: Sequence[TrueTrade], counts: Counter[Key], gaps: Sequence[Gap]
    ) -> None:
        """Find what tells of each trade that was not delivered."""
        rejects = [
            one for one in self.events if type(one) is Reject and one.symbol in ("", account.symbol)
        ]
        silent = self._silent_since(account.symbol)
        left = counts.copy()
        for trade in real:
            key = self._key(trade)
            if left[key]:
                left[key] -= 1
            elif any(self._covers(gap, trade) for gap in gaps):
                account.in_gaps += 1
            elif any(self._tells(reject, trade) for reject in rejects):
                account.rejected += 1
            elif silent is not None and trade.ts >= silent - self._slack:
                account.while_stalled += 1
            else:
                account.lost.append(trade)

    def _silent_since(self, symbol: str) -> int | None:
        """Return since when the trades are called silent or refused; None where some came live since."""
        since: int | None = None
        for one in self.events:
            if one.symbol == symbol and one.channel == self._channel:
                if type(one) is Status and one.state in ("stalled", "refused"):
                    since = one.ts if since is None else since  # said again, it is no newer
                elif type(one) is Trade and one.origin == "live":
                    since = None
        return since

    def _covers(self, gap: Gap, trade: TrueTrade) -> bool:
        return gap.since - self._unit <= trade.ts <= gap.until + self._unit

    def _tells(self, reject: Reject, trade: TrueTrade) -> bool:
        event = reject.event
        if type(event) is Trade:
            return self._key(event) == self._key(trade)
        return event is None and abs(reject.recv - trade.ts) <= self._slack


def count_reports(events: Iterable[Event], counters: Counter[str] | None = None) -> Counter[str]:
    """Return what was told in a stream, by name: gaps, rejects and states; and what was counted."""
    told: Counter[str] = Counter()
    for event in events:
        if type(event) is Gap:
            told[f"gap {event.cause}"] += 1
            told[f"verdict {event.state}"] += 1
        elif type(event) is Reject:
            told[f"reject {event.rule}"] += 1
        elif type(event) is Status:
            told[f"status {event.state}"] += 1
    for name, count in (counters or {}).items():
        if count and not name.startswith("reject."):
            told[f"counter {name}"] += count
    return told


def impossible_quotes(truth: Truth, symbol: str, quotes: Iterable[Quote]) -> list[Quote]:
    """Return the quotes of *symbol* that show a best bid and ask that the market never had."""
    real = {tuple(quoted[2:]) for quoted in truth.quotes(symbol)} | {truth.first_quote[symbol]}
    return [
        one
        for one in quotes
        if one.symbol == symbol and (one.bid, one.bid_size, one.ask, one.ask_size) not in real
    ]
