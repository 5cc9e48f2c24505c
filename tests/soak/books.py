"""The books of a soak: what the venues sent, held against what came; and the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field
from soak.places import SECOND, SETTLES, Place
from soak.watching import Watched
from tapeloom import Gap, Trade, decode
from tapeloom_simulator import Account, Ledger, TruthFile

#: How far, in ns, the word of a broken frame may lie from what was in it: a stall holds it up.
SLACK = 8 * SECOND


@define
class Row:
    """The books of one feed."""

    name: str
    accounts: list[Account] = field(factory=list)

    def sum(self, what: str) -> int:
        found = (getattr(account, what) for account in self.accounts)
        return sum(one if isinstance(one, int) else len(one) for one in found)


def books(places: Sequence[Place], folder: Path, watched: Watched) -> list[Row]:
    """Close the books of all feeds."""
    rows = []
    for venue in dict.fromkeys(place.venue for place in places):
        mine = [place for place in places if place.venue == venue]
        truth = TruthFile(folder / f"{venue}.jsonl")
        ledger = Ledger(truth, unit=mine[0].unit, slack=SLACK)
        with (folder / f"{venue}.events").open(encoding="utf-8") as lines:
            ledger.add(map(decode, lines))
        for place in mine:
            row = Row(place.name)
            for symbol in place.symbols:
                row.accounts.append(account(ledger, truth, place, symbol, watched))
            rows.append(row)
    return rows


def account(
    ledger: Ledger, truth: TruthFile, place: Place, symbol: str, watched: Watched
) -> Account:
    """Close the books of a symbol, for as long as it was streamed."""
    whole: Account | None = None
    came = [
        one
        for one in ledger.events
        if one.symbol == symbol and one.channel == "trades" and type(one) in (Trade, Gap)
    ]
    lives = watched.lives[place.venue, symbol]
    for life, (since, until) in enumerate(lives):
        # What is sold between the wish for it and its first event is nobody's; and what is sold
        # before it is dropped may still be on its way.
        inside = [one.ts for one in came if since <= one.ts and (not until or one.recv <= until)]
        if life:
            # What was sold in the moment of the first may have been sold before it.
            since = min(inside, default=watched.ended) + place.unit
        else:
            since = begun(truth, symbol, watched.ended)
        if until:
            until = max(inside, default=since)
        one = ledger.accounts([symbol], since, until or watched.ended - SETTLES * SECOND)[0]
        if whole is None:
            whole = one
            continue
        for name in ("sent", "live", "backfilled", "in_gaps", "while_stalled", "rejected", "lost"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
    assert whole is not None
    whole.out_of_order = [one for one in whole.out_of_order if not ordered_so(truth, one, watched)]
    return whole


def begun(truth: TruthFile, symbol: str, otherwise: int) -> int:
    """Return from when on the trades of *symbol* were sent."""
    sent = [one.since for one in truth.sent if one.symbol == symbol and one.channel == "trades"]
    return min(sent, default=otherwise) + 1


def ordered_so(truth: TruthFile, trade: Trade, watched: Watched) -> bool:
    """Whether a fault has put this trade behind later ones."""
    return any(
        one.kind in ("late_trade", "reorder")
        and one.symbol == trade.symbol
        and abs(one.ts - trade.ts) < 2 * SECOND
        for one in truth.faults
    ) or any(abs(watched.began + at * SECOND - trade.recv) < 3 * SECOND for at in watched.overtaken)


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


@define
class Report:
    """What a run gave: a table to print, and what is not as it must be."""

    rows: list[Row]
    watched: Watched
    injected: dict[str, Counter[str]]
    early: float  #: MB after the first minute, or the first third
    late: float
    problems: list[str]

    def __str__(self) -> str:
        columns = ("sent", "live", "backfilled", "in_gaps", "while_stalled", "rejected", "lost", "duplicated",
                   "unknown", "out_of_order", "wrong_gaps")  # fmt: skip
        lines = [f"{'':18}" + "".join(f"{one.replace('_', ' '):>14}" for one in columns)]
        lines += [
            f"{row.name:18}" + "".join(f"{row.sum(one):>14,}" for one in columns)
            for row in self.rows
        ]
        lines += [
            f"{sum(counts.values()):>6} injected, {name}: {listed(counts)}"
            for name, counts in self.injected.items()
        ]
        lines += [f"told of {venue}: {listed(told)}" for venue, told in self.watched.told.items()]
        lines += [
            f"consumer {one.name}: {one.got:,} came, {one.missed:,} told as missed"
            for one in self.watched.consumers
        ]
        sizes = ", ".join(f"{size:.0f}" for _, size in self.watched.memory[::10])
        lines.append(f"memory, in MB: {sizes}")
        lines.append(
            f"memory: {self.early:.1f} MB early, {self.late:.1f} MB at the end,"
            f" {self.late / self.early:.3f} times"
        )
        lines.append(f"left behind: {', '.join(self.watched.left) or 'nothing'}")
        lines += [f"NOT SO: {one}" for one in self.problems] or ["all holds"]
        return "\n".join(lines)


def report(
    places: Sequence[Place], folder: Path, watched: Watched, *, after: float, most: float
) -> Report:
    """Hold a run against what must be."""
    rows = books(places, folder, watched)
    relays = json.loads((folder / "relays.json").read_text())
    injected = {
        **{venue: Counter(TruthFile(folder / f"{venue}.jsonl").fault_counts())
           for venue in dict.fromkeys(place.venue for place in places)},
        **{f"chaos in {name}": Counter({
            kind.removeprefix("chaos_"): count for kind, count in counters.items()
            if kind.startswith("chaos_")
        }) for name, counters in watched.counters.items()},
        **{f"relay of {name}": Counter(done) for name, done in relays.items()},
    }  # fmt: skip
    early = next(size for at, size in watched.memory if at >= after)
    late = watched.memory[-1][1]
    problems = [str(one) for row in rows for one in row.accounts if not one.balanced]
    problems += [f"left behind: {one}" for one in watched.left]
    if watched.error:
        problems.append(f"a feed has ended: {watched.error}")
    if late > most * early:
        problems.append(f"memory grew from {early:.1f} MB to {late:.1f} MB")
    kept = watched.consumers[0]
    for one in watched.consumers:
        if one.got + one.missed != kept.got:
            problems.append(f"{one.name}: {one.got} + {one.missed} are not {kept.got}")
    return Report(rows, watched, injected, early, late, problems)
