"""Checks of trades: price, size, ids, time and jumps."""

from __future__ import annotations

from collections import defaultdict
from decimal import InvalidOperation
from typing import TYPE_CHECKING

from tapeloom.events import Event, Reject, Trade
from tapeloom.plugin import Loss

from ._rules import INFINITY, REPLAYED_ORIGINS, ZERO, Rules, is_positive
from ._trade_reference import IdState, TradeReference

if TYPE_CHECKING:
    from tapeloom.plugin import Gaps

__all__ = ["TradeChecks"]


class TradeChecks:
    """Check the trades that the fast path of the stage does not accept.

    `references` holds the references by channel and symbol. `check` returns None for a valid trade, else
    the events that replace it.
    """

    def __init__(self, rules: Rules, gaps: Gaps) -> None:
        self._rules = rules
        self._gaps = gaps
        self._checks_ids = (
            "duplicate" in rules.enabled or "order" in rules.enabled or "sequence" in rules.enabled
        )
        self.references: dict[str, dict[str, TradeReference]] = defaultdict(dict)

    def reference(self, trade: Trade) -> TradeReference:
        """Return the reference of a trade's symbol and channel; create it if needed."""
        references = self.references[trade.channel]
        if trade.symbol not in references:
            references[trade.symbol] = TradeReference(self._rules)
        return references[trade.symbol]

    def check(self, trade: Trade) -> list[Event] | None:
        """Return None for a valid trade, else the events that replace it."""
        reference = self.reference(trade)
        if self._passes_fast_path(reference, trade):
            missing = reference.record_next_id(trade.id)
            if missing is not None:
                gaps = self._missing_before(reference, trade, missing) if missing else []
                reference.newest_ts, reference.last_price = trade.ts, trade.price
                return [*gaps, trade] if gaps else None
        is_live = trade.origin not in REPLAYED_ORIGINS
        is_newest = trade.ts > reference.newest_ts
        id_state, gaps = self._record_id(reference, trade, is_live=is_live, is_newest=is_newest)
        rule, evidence = self._check_values(reference, trade, id_state)
        # The time and price of late and replayed trades are not those of the market now.
        if not rule and is_live and (id_state != "late" or is_newest):
            rule, evidence = self._check_stream(reference, trade)
            if not rule:
                reference.accept(trade.ts, trade.price)
                if reference.needs_full_check:
                    reference.force_full_check()
        if rule:
            return gaps + self._rules.reject(trade, rule, evidence)
        return [*gaps, trade] if gaps else None

    def _passes_fast_path(self, reference: TradeReference, trade: Trade) -> bool:
        """Return whether a trade passes the comparisons of the fast path, except that of the id."""
        try:
            return (
                reference.band_low < trade.price < reference.band_high
                and ZERO < trade.size < INFINITY
                and trade.ts >= reference.newest_ts
                and trade.origin == "live"
                and trade.ts <= trade.recv + self._rules.ahead.allowed
                and (
                    self._rules.ahead.is_usual
                    or not self._rules.ahead.exceeds(trade.ts, trade.recv, reference.newest_ts)
                )
            )
        except InvalidOperation:  # comparing a NaN raises
            return False

    def _record_id(
        self, reference: TradeReference, trade: Trade, *, is_live: bool, is_newest: bool
    ) -> tuple[IdState, list[Event]]:
        """Record the id; return its state, and the gaps to emit before the trade."""
        if not self._checks_ids:
            return "fresh", []
        is_backfill = trade.origin == "backfill"
        id_state, missing = reference.record_id(
            trade.id, is_live=is_live, is_newest=is_newest, is_backfill=is_backfill
        )
        if reference.needs_full_check:
            reference.force_full_check()
        return id_state, self._missing_before(reference, trade, missing) if missing else []

    def _missing_before(self, reference: TradeReference, trade: Trade, missing: int) -> list[Event]:
        """Return the gaps to emit before a trade whose id shows that *missing* trades were lost."""
        self._rules.count("missing", missing)
        if "sequence" not in self._rules.enabled or not isinstance(trade.id, int):
            return []
        since = reference.newest_ts if reference.has_event else trade.ts
        loss = Loss(
            trade.symbol, trade.channel, since=since, until=max(since, trade.ts), recv=trade.recv,
            after_id=trade.id - missing - 1, before_id=trade.id,
        )  # fmt: skip
        return self._gaps.open(loss)

    def _check_values(
        self, reference: TradeReference, trade: Trade, id_state: IdState
    ) -> tuple[str, str]:
        """Return the rule on values or ids that a trade breaks, and the evidence; empty texts if none."""
        enabled = self._rules.enabled
        if evidence := self._rules.check_prices((("price", trade.price),)):
            return "price", evidence
        if "size" in enabled and not is_positive(trade.size):
            return "size", f"size {trade.size} is not a number above 0"
        if id_state == "duplicate" and id_state in enabled:
            if isinstance(trade.id, int) and reference.next_id is not None:
                return (
                    id_state,
                    f"id {trade.id} was already received; the last is {reference.next_id - 1}",
                )
            return id_state, f"id {trade.id!r} was already received"
        if id_state == "order" and id_state in enabled:
            return (
                id_state,
                f"id {trade.id} is below {reference.first_id}, the first, and its ts is the newest",
            )
        return "", ""

    def _check_stream(self, reference: TradeReference, trade: Trade) -> tuple[str, str]:
        """Return the rule on time or jumps that a trade breaks, and the evidence; empty texts if none."""
        if evidence := self._rules.check_ahead(trade.ts, trade.recv, reference.newest_ts):
            return "ahead", evidence
        if evidence := reference.check_time(trade.ts):
            return "backwards", evidence
        if evidence := reference.check_jump(trade.price, trade.ts):
            return "jump", evidence
        return "", ""

    def record_reject(self, reject: Reject) -> list[Event] | None:
        """Record the id of a trade that an earlier stage rejected: it is not missing."""
        trade = reject.event
        if type(trade) is not Trade or not isinstance(trade.id, int):
            return None
        reference = self.reference(trade)
        is_live = trade.origin not in REPLAYED_ORIGINS
        _, gaps = self._record_id(
            reference, trade, is_live=is_live, is_newest=trade.ts > reference.newest_ts
        )
        return [*gaps, reject] if gaps else None
