"""The live table: what fits 80 and 120 columns, colours, sizes, notes and log lines."""

from __future__ import annotations

import io
import re
from decimal import Decimal
from pathlib import Path

import pytest
import structlog
from tapeloom import Bar, Event, Gap, Quote, Reject, Status, Trade
from tapeloom.cli import output
from tapeloom.cli._table import Table
from tapeloom.cli._table.layout import page
from tapeloom.cli._table.state import State

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
SYMBOLS = ["BTC/USDT", "BTC/USDT:USDT", "ETH/USDT", "ETH/USDT:USDT", "SOL/USDT", "SOL/USDT:USDT"]
STYLE = re.compile(r"\x1b\[[\d;]*m")


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True

    def frames(self) -> list[list[str]]:
        """Return the lines of each drawing, without their colours."""
        drawings = self.getvalue().split("\x1b[H")[1:]
        return [STYLE.sub("", drawing).split("\x1b[K\n")[:-1] for drawing in drawings]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def bar(symbol: str, number: int, interval: str = "1s", complete: bool = True) -> Bar:
    start = START + number * SECOND
    price = Decimal("61250.5") + number % 5
    return Bar(
        "acme", symbol, start, start, interval, price, price + 3, price - 2, price + 1,
        Decimal("0.25"), None, None, None, 7, complete=complete,
    )  # fmt: skip


def market(symbol: str) -> list[Event]:
    """Return a trade 4 ms old, a quote, a gap, two rejects and ten bars of a symbol."""
    now = START + 100 * SECOND
    price = Decimal("61251.50")
    return [
        *(bar(symbol, number) for number in range(10)),
        Gap("acme", symbol, 9, 9, 1, 9, "disconnect", 3, "open", "trades", 4, 8),
        Reject("acme", symbol, now, now, "jump", "61 000"),
        Reject("acme", symbol, now, now, "jump", "61 001"),
        Quote("acme", symbol, now - 9_000_000, now - 1, price, Decimal(1), price + 1, Decimal(1)),
        Trade("acme", symbol, now - 4_000_000, now, price, Decimal(1), "buy", 7),
    ]


def drawn(width: int, height: int, *events: Event, notes: list[str] | None = None) -> list[str]:
    """Return the lines of the table for some events, checked to fit."""
    seen: list[str] = []
    state = State(seen.append, lambda bar: None)
    state.write([*events])
    lines = page("tapeloom", sorted(state.rows.items()), [], notes or [], width, height)
    texts = ["".join(text for text, _ in line).rstrip() for line in lines]
    assert len(texts) <= height
    assert [text for text in texts if len(text) > width] == []
    return texts


@pytest.mark.parametrize(("width", "lines_per_row"), [(79, 2), (119, 1)])
def test_80_and_120_columns_hold_ohlc_chart_lag_gaps_and_rejects(
    width: int, lines_per_row: int
) -> None:
    lines = drawn(width, 23, *(event for symbol in SYMBOLS for event in market(symbol)))
    titles = " ".join(lines[1 : 1 + lines_per_row]).split()
    first = " ".join(lines[1 + lines_per_row : 1 + 2 * lines_per_row]).split()

    assert (titles[0], first[0]) == ("SYMBOL", "BTC/USDT")
    for title in ("PRICE", "LAG", "GAPS", "REJECTS", "BAR", "OPEN", "HIGH", "LOW", "CLOSE"):
        assert title in titles
    text = " ".join(first)
    assert "4 ms 1 2" in text  # lag, gaps, rejects
    assert "1s 61254.5 61257.5 61252.5 61255.5" in text
    assert "▁▃▅▆█▁▃▅▆█" in text
    assert sum(line.startswith(tuple(SYMBOLS)) for line in lines) == len(SYMBOLS)


def test_the_venue_has_a_column_if_there_are_several() -> None:
    other = Trade("bravo", "BTC/USDT", 1, 2, Decimal(1), Decimal(1), "buy", 7)

    assert "VENUE" not in drawn(79, 23, *market("BTC/USDT"))[1]
    assert "VENUE" in drawn(79, 23, *market("BTC/USDT"), other)[1]


def test_a_trade_alone_has_no_columns_of_bars() -> None:
    trade = Trade("acme", "BTC/USDT", 1, 2, Decimal(1), Decimal(1), "buy", 7)

    assert "OPEN" not in " ".join(drawn(79, 23, trade))


def test_the_bars_are_those_of_the_shortest_interval_and_marked_if_partial() -> None:
    events = [bar("BTC/USDT", number, complete=number > 0) for number in range(2)]

    assert " 1s* " in " ".join(drawn(119, 23, events[0], bar("BTC/USDT", 0, "1m")))
    assert " 1s " in " ".join(drawn(119, 23, *events, bar("BTC/USDT", 0, "1m")))


def test_a_revision_of_a_bar_takes_its_place() -> None:
    state = State(lambda note: None, lambda bar: None)
    state.write([bar("BTC/USDT", 1), bar("BTC/USDT", 2), bar("BTC/USDT", 1)])

    (row,) = state.rows.values()
    assert [shown.ts for shown in row.shown_bars()] == [START + SECOND, START + 2 * SECOND]


def test_rows_that_do_not_fit_are_counted() -> None:
    lines = drawn(79, 9, *(event for symbol in SYMBOLS for event in market(symbol)))

    assert [line for line in lines if line.startswith(tuple(SYMBOLS))][-1].startswith(SYMBOLS[1])
    assert "… and 4 more" in lines


def test_a_long_note_is_wrapped_and_shown_whole() -> None:
    reason = " ".join(f"word{number}" for number in range(60))
    lines = drawn(79, 23, *market("BTC/USDT"), notes=["12:00:00 an older note", reason])

    assert " ".join(" ".join(lines).split()).endswith(reason)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_turns_every_style_off(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    table = Table(terminal)
    table.write(market("BTC/USDT"))
    table.refresh({})

    assert bool(STYLE.search(terminal.getvalue())) is not bool(no_color)


def test_each_drawing_has_the_size_of_the_terminal_and_clears_the_rest(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(terminal)
    table.write([event for symbol in SYMBOLS for event in market(symbol)])
    sizes = [(120, 40), (60, 12), (80, 24)]
    for columns, lines in sizes:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))
        table.refresh({"frames": 7})
    table.close()

    for (columns, lines), frame in zip(sizes, terminal.frames(), strict=True):
        assert 5 < len(frame) < lines
        assert max(map(len, frame)) < columns
    # Every drawing begins at the top, ends each line with "clear to its end", and clears what is below.
    assert terminal.getvalue().count("\x1b[H") == terminal.getvalue().count("\x1b[J") == 3
    assert terminal.getvalue().endswith("\x1b[J\x1b[?25h")


def test_log_lines_are_notes_of_the_live_table_and_do_not_tear_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", stderr := Terminal())
    table = output("table")
    structlog.get_logger().error("sink_failed", sink="archive", reason="the disk is full")
    structlog.get_logger().warning("feed_reconnecting", feed="f")  # a Status says it
    structlog.reset_defaults()
    table.refresh({})

    assert "sink_failed" in "".join(terminal.frames()[-1])
    assert "the disk is full" in "".join(terminal.frames()[-1])
    assert "feed_reconnecting" not in "".join(terminal.frames()[-1])
    assert stderr.getvalue() == ""


def test_log_lines_go_to_standard_error_if_it_is_no_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdout", terminal)
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(stderr))
    table = output("table")
    structlog.get_logger().error("sink_failed")
    structlog.reset_defaults()
    table.refresh({})

    assert "sink_failed" in stderr.getvalue()
    assert "sink_failed" not in terminal.getvalue()


def test_a_status_is_a_note(terminal: Terminal) -> None:
    table = Table(terminal)
    table.write([Status("acme", "", 1, START, "reconnecting", "the server closed the connection")])
    table.refresh({})

    assert "22:13:20 acme reconnecting the server closed the connection" in terminal.frames()[0]
