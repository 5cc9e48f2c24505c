"""Read the ground truth from a file, for runs too long to keep in memory."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from .truth import InjectedFault, SentStream, TrueQuote, TrueTrade

__all__ = ["TruthFile"]


class TruthFile:
    """The ground truth that `serve(truth=path, keep=False)` wrote, with the query methods of `Truth`.

    Quotes are most of the file and are skipped unless *quotes* is true. Reading stops at a truncated
    line, which an interrupted simulation leaves.
    """

    def __init__(self, path: str | Path, *, quotes: bool = False) -> None:
        self.faults: list[InjectedFault] = []
        self.sent: list[SentStream] = []
        self._trades: defaultdict[str, list[TrueTrade]] = defaultdict(list)
        self._quotes: defaultdict[str, list[TrueQuote]] = defaultdict(list)
        with Path(path).open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(_QUOTE) and not quotes:
                    continue
                if not line.endswith("\n"):
                    break
                self._add_row(json.loads(line))

    def _add_row(self, row: dict[str, Any]) -> None:
        match row.pop("type"):
            case "trade":
                self._trades[row.pop("symbol")].append(
                    TrueTrade(row["id"], Decimal(row["price"]), Decimal(row["size"]), row["side"],
                           row["ts"], row["aggregate"])
                )  # fmt: skip
            case "quote":
                self._quotes[row["symbol"]].append(
                    TrueQuote(row["ts"], row["sequence"], Decimal(row["bid"]),
                           Decimal(row["bid_size"]), Decimal(row["ask"]), Decimal(row["ask_size"]))
                )  # fmt: skip
            case "fault":
                self.faults.append(InjectedFault(**row))
            case "followed":
                self.sent.append(SentStream(since=row.pop("ts"), first_id=row.pop("first"), **row))
            case "left":
                self._end_stream(row)

    def _end_stream(self, row: dict[str, Any]) -> None:
        for sent in reversed(self.sent):
            if (sent.connection, sent.stream) == (row["connection"], row["stream"]):
                sent.until, sent.last_id, sent.count = row["ts"], row["last"], row["count"]
                return

    def trades(self, symbol: str) -> list[TrueTrade]:
        """Return every trade of *symbol*, in order."""
        return self._trades[symbol]

    def quotes(self, symbol: str) -> list[TrueQuote]:
        """Return every change of the best bid and ask of *symbol*, in order.

        The quote at the start of the market is not among them, because it is no change. Empty unless
        the file was opened with ``quotes=True``.
        """
        return self._quotes[symbol]

    def fault_counts(self) -> dict[str, int]:
        """Return how often each kind of fault was injected."""
        return dict(Counter(fault.kind for fault in self.faults))


_QUOTE = '{"type": "quote"'
