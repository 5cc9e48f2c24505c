"""The pages as texts and rows: what a `Market` says, for a width in columns."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeAlias

from rich.text import Text
from tapeloom.events import Reject, Status, Trade
from tapeloom_screens import GapEntry, Health, LadderView, SymbolRow

from .formats import SECOND, clock, count, duration, number
from .listing import Cell, Column

#: What a `Listing` shows: columns, keys of rows, rows.
Page: TypeAlias = tuple[Sequence[Column], Sequence[Hashable], Sequence[Sequence[Cell]]]

#: From this width on, there are more columns.
WIDE = 110
#: A symbol without events for so long is coloured.
_STALE_NS = 10 * SECOND
#: From this fill on, a queue is coloured.
_FULL = 0.5
_GAP_COLOURS = {"open": "yellow", "partial": "yellow", "filled": "green", "unrecoverable": "red"}
_CONDITION_COLOURS = {"live": "green", "partial": "yellow", "connecting": "yellow", "failed": "red", "ended": ""}  # fmt: skip


def _warn(text: str, *, bad: bool, colour: str = "red") -> Cell:
    return text, colour if bad else ""


def _rest(columns: Sequence[Column], width: int) -> int:
    """Return the width that is left for the last column."""
    return max(width - sum(column.width + 1 for column in columns) - 1, 8)


def overview(rows: Sequence[SymbolRow], width: int) -> Page:
    """Return a row for each symbol."""
    wide = width >= WIDE
    columns = [Column("VENUE", 11), Column("SYMBOL", 16 if wide else 14), Column("LAST", 12, True)]
    if wide:
        columns += [Column("BID", 12, True), Column("ASK", 12, True)]
    columns += [Column("SPREAD", 7, True), Column("TR/S", 5, True), Column("P50", 5, True)]
    columns += [Column("P99", 5, True), Column("AGE", 5, True), Column("GAPS", 4, True)]
    columns += [Column("REJ", 4, True)] if wide else [Column("REJ", 3, True)]
    if not wide:
        columns[0] = Column("VENUE", 7)
    return columns, [(row.venue, row.symbol) for row in rows], [_symbol(row, wide) for row in rows]


def _symbol(row: SymbolRow, wide: bool) -> list[Cell]:
    colour = {1: "green", -1: "red", 0: ""}[row.direction]
    arrow = {1: "▲", -1: "▼", 0: " "}[row.direction]
    cells = [(row.venue, ""), (row.symbol, "bold"), (f"{arrow}{number(row.last, 11)}", colour)]
    if wide:
        cells += [(number(row.bid, 12), ""), (number(row.ask, 12), "")]
    age = row.staleness
    return [
        *cells,
        _warn(number(row.spread, 7), bad=row.spread is not None and row.spread <= 0),
        (count(row.trade_rate), ""),
        (duration(row.lag_p50), ""),
        (duration(row.lag_p99), ""),
        _warn(_age(age), bad=age is not None and age > _STALE_NS, colour="yellow"),
        _warn(count(row.gaps), bad=row.gaps > 0),
        _warn(count(row.rejects), bad=row.rejects > 0),
    ]


def _age(ns: int | None) -> str:
    return "<1s" if ns is not None and ns < SECOND else duration(ns)


def gaps(entries: Sequence[GapEntry], width: int) -> Page:
    """Return the gap ledger."""
    wide = width >= WIDE
    columns = [
        Column("FROM", 8), Column("LENGTH", 6, True), Column("VENUE", 11 if wide else 7),
        Column("SYMBOL", 16 if wide else 13), Column("CHANNEL", 12 if wide else 8), Column("CAUSE", 10),
        Column("STATE", 13), Column("MISSING", 7 if wide else 5, True),
    ]  # fmt: skip
    if wide:
        columns += [Column("REPORTED", 8), Column("REPORTS", 7, True)]
    else:
        columns[-1] = Column("MISS", 4, True)
    rows = []
    for entry in entries:
        gap = entry.gap
        missing = "?" if gap.missing is None else count(gap.missing)
        row: list[Cell] = [
            (clock(gap.since), ""), (duration(gap.until - gap.since), ""), (gap.venue, ""),
            (gap.symbol or "all", "bold"), (gap.channel or "all", ""), (gap.cause, ""),
            (gap.state, _GAP_COLOURS[gap.state]), (missing, ""),
        ]  # fmt: skip
        if wide:
            row += [(clock(entry.first_reported), ""), (count(entry.reports), "")]
        rows.append(row)
    return columns, [entry.gap.identity for entry in entries], rows


def connections(health: Health, width: int) -> Page:
    """Return a row for each connection of each feed; a feed without any has a row too."""
    wide = width >= WIDE
    columns = [
        Column("FEED", 16 if wide else 10), Column("CONNECTION", 16 if wide else 11), Column("STATE", 10),
        Column("AGE", 5, True), Column("LIVE", 6, True), Column("FRAME/S", 7, True),
    ]  # fmt: skip
    columns.append(Column("SUBSCRIPTIONS", _rest(columns, width)))
    keys: list[Hashable] = []
    rows: list[list[Cell]] = []
    for feed in health.feeds:
        frames = count(feed.rates.get("frames", 0))
        if not feed.state.connections:
            keys.append(feed.state.name)
            colour = _CONDITION_COLOURS[feed.condition]
            rows.append(
                [(feed.state.name, ""), ("none of its own", "dim"), (feed.condition, colour), ("", ""),
                 (str(len(feed.state.live)), ""), (frames, ""), (" ".join(feed.state.symbols), "")]
            )  # fmt: skip
        for connection in feed.state.connections:
            seconds = connection.connected_seconds
            keys.append((feed.state.name, connection.label))
            wanted, live = len(connection.wanted), len(connection.live)
            channels = dict.fromkeys(subscription.channel for subscription in connection.wanted)
            symbols = dict.fromkeys(subscription.symbol for subscription in connection.wanted)
            names = " ".join((*channels, *symbols))
            rows.append(
                [
                    (feed.state.name, ""), (connection.label, ""),
                    ("open", "green") if seconds is not None else ("connecting", "yellow"),
                    (duration(None if seconds is None else int(seconds * SECOND)), ""),
                    _warn(f"{live}/{wanted}", bad=live < wanted, colour="yellow"), (frames, ""), (names, ""),
                ]
            )  # fmt: skip
    return columns, keys, rows


def pipeline(health: Health, width: int) -> Page:
    """Return a row for each stage of each feed, and for each queue."""
    columns = [
        Column("WHAT", 6), Column("NAME", 30 if width >= WIDE else 24), Column("EVENT/S", 7, True), Column("µs/EVENT", 8, True),
        Column("LOAD", 6, True), Column("WAITING", 13, True), Column("DROPPED", 8, True),
    ]  # fmt: skip
    keys: list[Hashable] = []
    rows: list[list[Cell]] = []
    for feed in health.feeds:
        for stage in feed.stages:
            keys.append((feed.state.name, stage.name))
            rows.append(
                [("stage", ""), (f"{feed.state.name} › {stage.name}", "bold"), (count(stage.events_rate), ""),
                 (f"{stage.microseconds_per_event:.2f}", ""), (f"{stage.load:.1%}", ""), ("", ""), ("", "")]
            )  # fmt: skip
    for queue in health.queues:
        state = queue.state
        keys.append(("queue", state.name))
        rows.append(
            [("sink" if state.is_sink else "queue", ""), (f"{state.name} ({state.policy})", "bold"),
             (count(queue.received_rate), ""), ("", ""), ("", ""),
             _warn(f"{count(state.waiting)}/{count(state.size)}", bad=queue.fill > _FULL),
             _warn(count(state.dropped), bad=state.dropped > 0)]
        )  # fmt: skip
    return columns, keys, rows


def log(events: Sequence[Status | Reject], width: int) -> Page:
    """Return the last changes of state and rejects."""
    columns = [Column("TIME", 8), Column("WHAT", 20 if width >= WIDE else 14)]
    columns.append(Column("VENUE", 11 if width >= WIDE else 7))
    columns.append(Column("DETAIL", _rest(columns, width)))
    keys = [(event.recv, event.symbol, event.channel, place) for place, event in enumerate(events)]
    return columns, keys, [_logged(event) for event in events]


def _logged(event: Status | Reject) -> list[Cell]:
    where = " ".join(filter(None, (event.symbol, event.channel)))
    if isinstance(event, Reject):
        text, label, colour = event.evidence, f"reject {event.rule}", "red"
    else:
        text, label, colour = event.detail, event.state, ""
    return [
        (clock(event.recv), ""),
        (label, colour),
        (event.venue, ""),
        (f"{where} {text}".strip(), ""),
    ]


def ladder(view: LadderView | None, lines: int, width: int) -> Text:
    """Return the best levels, asks above bids, with the sizes as bars."""
    if view is None:
        return Text("no order book in this stream", "dim")
    levels = max((lines - 2) // 2, 1)
    asks, bids = view.asks[:levels][::-1], view.bids[:levels]
    most = float(max([size for _, size in (*asks, *bids)], default=1)) or 1.0
    text = Text(no_wrap=True)
    title = f"BOOK {view.channel}"
    text.append(f"{title:<{width - 9}}", "bold").append(
        f"{view.state:>8}", "" if view.state == "synced" else "yellow"
    )
    for side, found, colour in (("asks", asks, "red"), ("bids", bids, "green")):
        if side == "bids":
            spread = view.asks[0][0] - view.bids[0][0] if view.asks and view.bids else None
            text.append(f"\n{'spread ' + number(spread, 10):^{width - 1}}", "dim")
        for price, size in found:
            line = f"{number(price, 13):>13} {number(size, width - 16):>{width - 16}}"
            filled = round(float(size) / most * (width - 1))
            text.append("\n").append(line[:-filled] if filled else line, colour)
            text.append(line[-filled:] if filled else "", f"{colour} reverse")
    return text


def tape(trades: Sequence[Trade], lines: int, width: int) -> Text:
    """Return the last trades, the newest first."""
    text = Text(no_wrap=True).append("TRADES", "bold")
    for trade in trades[: max(lines - 1, 0)]:
        colour = {"buy": "green", "sell": "red"}.get(trade.side or "", "")
        text.append(f"\n{clock(trade.ts)}", "dim").append(f" {number(trade.price, 10):>10}", colour)
        text.append(f" {number(trade.size, width - 21):>{width - 21}}")
    return text
