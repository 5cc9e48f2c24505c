"""The parts of the page about the whole stream: all symbols, the gap ledger, feeds, queues, stages."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui
from nicegui.events import GenericEventArguments

from . import tables
from .shown import Shown
from .symbol_view import column, show, table

__all__ = ["HealthView", "OverviewView"]

_MAX_ROWS = 500


class OverviewView:
    """All symbols. A click on one calls *choose* with its venue and name."""

    def __init__(self, shown: Shown, choose: Callable[[str, str], None]) -> None:
        self._shown = shown
        self._search = ui.input(placeholder="Search: venue or symbol")
        self._search.props('dense outlined clearable data-testid="filter"').classes("search")
        columns = [
            column("venue", "venue", left=True), column("symbol", "symbol", left=True),
            column("last", "last"), column("bid", "bid"), column("ask", "ask"),
            column("spread", "spread"), column("rate", "events/s"), column("lag", "lag p50 / p99"),
            column("age", "last event"), column("gaps", "gaps"), column("rejects", "rejects"),
        ]  # fmt: skip
        for made in columns:
            made["sortable"] = True
        self._table = table(columns, "key", "symbols").classes("overview clickable")

        def clicked(event: GenericEventArguments) -> None:
            row = event.args[1]
            choose(str(row["venue"]), str(row["symbol"]))

        self._table.on("rowClick", clicked)

    def update(self) -> None:
        """Show the newest rows."""
        match = str(self._search.value or "")
        show(self._table, tables.symbols(self._shown.market.rows(match, count=_MAX_ROWS)))


class HealthView:
    """Whether the stream is to be trusted."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._summary = ui.label().classes("quiet").props('data-testid="summary"')
        ui.label("Gaps").classes("title")
        self._gaps = table(
            [
                column("found", "found (UTC)", left=True), column("venue", "venue", left=True),
                column("symbol", "symbol", left=True), column("channel", "channel", left=True),
                column("cause", "cause", left=True), column("missing", "missing"),
                column("length", "length"), column("state", "state", left=True),
            ],
            "key",
            "gaps",
        )  # fmt: skip
        self._no_gaps = ui.label("none so far").classes("quiet")
        ui.label("Feeds").classes("title")
        self._feeds = table(
            [
                column("name", "feed", left=True), column("condition", "condition", left=True),
                column("connections", "connections"), column("live", "live subscriptions"),
                column("frames", "frames"), column("reconnects", "reconnects"),
                column("open_gaps", "open gaps"), column("clock", "venue's clock ahead"),
                column("error", "error", left=True),
            ],
            "name",
            "feeds",
        )  # fmt: skip
        ui.label("Connections").classes("title")
        self._connections = table(
            [
                column("label", "connection", left=True), column("feed", "feed", left=True),
                column("age", "open for"), column("live", "subscriptions"),
            ],
            "label",
            "connections",
        )  # fmt: skip
        ui.label("Queues").classes("title")
        self._queues = table(
            [
                column("name", "queue", left=True), column("kind", "of a", left=True),
                column("fill", "full"), column("rate", "events"), column("dropped", "dropped"),
                column("policy", "policy", left=True),
            ],
            "name",
            "queues",
        )  # fmt: skip
        ui.label("Stages").classes("title")
        self._stages = table(
            [
                column("feed", "feed", left=True), column("stage", "stage", left=True),
                column("events", "events"), column("time", "time an event"), column("load", "load"),
            ],
            "key",
            "stages",
        )  # fmt: skip

    def update(self) -> None:
        """Show the newest state."""
        market = self._shown.market
        health = market.health()
        entries = market.gaps(count=_MAX_ROWS)
        rejects = len(market.rejects())
        self._summary.set_text(
            f"{market.gap_count} gaps · {rejects} of the last rejects kept ·"
            f" {health.counters.get('reconnects', 0)} reconnects ·"
            f" {health.counters.get('dropped', 0)} events dropped by queues"
        )
        show(self._gaps, tables.gaps(entries))
        self._no_gaps.set_visibility(not entries)
        self._gaps.set_visibility(bool(entries))
        show(self._feeds, tables.feeds(health))
        show(self._connections, tables.connections(health))
        show(self._queues, tables.queues(health))
        show(self._stages, tables.stages(health))
