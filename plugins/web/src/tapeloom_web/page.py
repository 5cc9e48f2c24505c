"""Builds the page of each visitor, and keeps it up to date while the visitor looks."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from nicegui import ui
from tapeloom.units import duration_ns

from .health_view import HealthView, OverviewView
from .shown import Shown
from .symbol_view import INTERVALS, SymbolView

__all__ = ["Page"]

#: Seconds between two updates of what a visitor sees.
_UPDATE_SECONDS = 0.5
_STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
_DEFAULT_INTERVAL = "1m"
_SECOND = 1_000_000_000


class Page:
    """The page of one visitor: what is chosen, and the parts that show it."""

    def __init__(self, shown: Shown, symbol: str, interval: str) -> None:
        self._shown = shown
        self._interval = interval if _is_interval(interval) else _DEFAULT_INTERVAL
        self._chosen = (
            symbol  # "VENUE SYMBOL"; as long as it has had no event, what the address says
        )
        self._known: list[str] = []
        ui.add_css(_STYLE)
        self._dark = ui.dark_mode(value=None)
        with ui.header().classes("items-center gap-3 bar"):
            ui.label("tapeloom").classes("name")
            self._select = ui.select([], with_input=True, on_change=self._symbol_chosen)
            self._select.props(
                'dense outlined options-dense data-testid="symbol" placeholder="symbol"'
            ).classes("choose-symbol")
            self._choice = ui.select(
                self._intervals(), value=self._interval, with_input=True,
                new_value_mode="add-unique", on_change=self._interval_chosen,
            )  # fmt: skip
            self._choice.props('dense outlined options-dense data-testid="interval"')
            self._choice.classes("choose-interval")
            with ui.tabs().props("dense inline-label") as tabs:
                self._tab_symbol = ui.tab("Symbol")
                self._tab_overview = ui.tab("Overview")
                self._tab_health = ui.tab("Health")
            ui.space()
            self._state = ui.label().classes("quiet state").props('data-testid="state"')
            ui.button(icon="contrast", on_click=self._toggle_dark).props(
                'flat round dense aria-label="dark or light"'
            )
        self._tabs = tabs
        with ui.tab_panels(tabs, value=self._tab_symbol, animated=False).classes("w-full panels"):
            with ui.tab_panel(self._tab_symbol):
                self._symbol_view = SymbolView(shown)
            with ui.tab_panel(self._tab_overview):
                self._overview = OverviewView(shown, self._open)
            with ui.tab_panel(self._tab_health):
                self._health = HealthView(shown)
        self.update()
        ui.timer(_UPDATE_SECONDS, self.update)

    def _intervals(self) -> list[str]:
        return [*INTERVALS, *([self._interval] if self._interval not in INTERVALS else [])]

    def update(self) -> None:
        """Bring what is seen up to date; nothing else is computed or sent."""
        self._shown.refresh()
        self._update_symbols()
        health = self._shown.market.health()
        self._state.set_text(_summary([feed.condition for feed in health.feeds]))
        seen = self._tabs.value
        if seen == "Overview":
            self._overview.update()
        elif seen == "Health":
            self._health.update()
        elif " " in self._chosen:
            venue, _, symbol = self._chosen.partition(" ")
            self._symbol_view.update(venue, symbol, self._interval)

    def _update_symbols(self) -> None:
        known = [f"{venue} {symbol}" for venue, symbol in self._shown.market.symbols()]
        if known == self._known:
            return
        self._known = known
        if self._chosen not in known:
            wanted = [name for name in known if not self._chosen or self._chosen in name.split()]
            if not wanted:
                self._select.set_options(known)
                return
            self._chosen = wanted[0]
        self._select.set_options(known, value=self._chosen)

    def _open(self, venue: str, symbol: str) -> None:
        self._select.set_value(f"{venue} {symbol}")
        self._tabs.set_value("Symbol")

    def _symbol_chosen(self) -> None:
        if self._select.value and self._select.value != self._chosen:
            self._chosen = str(self._select.value)
            self._remember()

    def _interval_chosen(self) -> None:
        interval = str(self._choice.value or "")
        if interval == self._interval:
            return
        if not _is_interval(interval):
            ui.notify(
                f"{interval!r} is no interval: write a whole number of seconds, minutes, hours or days,"
                " such as 30s or 2h",
                type="negative",
            )
            self._choice.set_value(self._interval)
            return
        self._interval = interval
        self._remember()

    def _remember(self) -> None:
        """Put the choice into the address, so that it can be kept and shared."""
        query = urlencode({"symbol": self._chosen, "interval": self._interval})
        ui.navigate.history.replace(f"/?{query}")
        self.update()

    def _toggle_dark(self) -> None:
        self._dark.set_value(not self._dark.value)


def _is_interval(text: str) -> bool:
    try:
        length = duration_ns(text)
    except ValueError:
        return False
    return length >= _SECOND and not length % _SECOND


def _summary(conditions: list[str]) -> str:
    """Say in a few words how the feeds are."""
    if not conditions:
        return "no feed yet"
    bad = [condition for condition in conditions if condition != "live"]
    count = len(conditions)
    if not bad:
        return f"{count} feed{'s' * (count > 1)} live"
    return f"{len(bad)} of {count} feeds {' and '.join(sorted(set(bad)))}"
