"""The page in a browser, as a visitor uses it, over a simulated market with faults.

The stream is a process of its own, as `tapeloom web` starts it; the browser is Chromium.
`TAPELOOM_PICTURES=1` writes the picture of the documentation anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tapeloom_testing.services import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURE = Path(__file__).parents[1] / "docs/pictures/web.png"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: chromium)"),
]
playwright = pytest.importorskip("playwright.sync_api")

STACK = """
[[feed]]
venue    = "binance"
market   = "spot"
symbols  = ["BTC/USDT", "ETH/USDT"]
channels = ["trades", "quotes", "book"]
stages   = ["quality", "books"]

[venue.binance]
base_url = "{url}"

[[sink]]
use  = "web"
port = {port}
"""
#: From the tenth second on, connections are cut every twelve seconds.
FAULTS = """
[[fault]]
kind  = "disconnect"
at    = 10
every = 12
count = 0
"""
#: Milliseconds for what a page shows at last; the machine may be busy.
PATIENCE = 60_000
#: The lines of the page's header: the parts that are seen, by the middle of their height, 12 pixels apart.
_HEADER_LINES = """() => {
  const lines = [];
  for (const part of document.querySelector(".bar").children) {
    const box = part.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    const middle = box.top + box.height / 2;
    const line = lines.find((other) => Math.abs(other.middle - middle) < 12);
    if (line) line.parts.push(part.className);
    else lines.push({ middle, parts: [part.className] });
  }
  return lines;
}"""


class Site:
    """A simulated market, and a stream with a page that can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        (folder / "faults.toml").write_text(FAULTS)
        self._market = self._started(
            "simulate", "binance", "--symbols", "BTC/USDT,ETH/USDT", "--rate", "60",
            "--faults", "faults.toml",
        )  # fmt: skip
        assert self._market.stdout is not None
        line = self._market.stdout.readline()
        (address,) = re.findall(r"http://[\d.:]+", line)
        (folder / "stack.toml").write_text(STACK.format(url=address.rstrip("."), port=self.port))
        self.start()

    def _started(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tapeloom", *arguments]
        log = (self.folder / "log.txt").open("a")
        with log:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def start(self) -> None:
        """Start the stream and its page."""
        self._page = self._started("web", "stack.toml", "--out", "none")

    def kill(self) -> None:
        """Kill the stream and its page."""
        self._page.kill()
        self._page.communicate()

    def close(self) -> None:
        self.kill()
        self._market.kill()
        self._market.communicate()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@contextmanager
def visit(site: Site, query: str = "", width: int = 1280, height: int = 800) -> Iterator[object]:
    """Open the page, and fail if anything in it raises an error."""
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark")
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for _ in range(300):  # until the server listens
            try:
                page.goto(f"{site.url}{query}")
                break
            except playwright.Error:
                page.wait_for_timeout(200)
        yield page
        browser.close()
    assert errors == []


def shows(page: object, name: str, text: str | re.Pattern[str]) -> None:
    """Wait until a part of the page shows a text."""
    part = page.locator(f'[data-testid="{name}"]')  # type: ignore[attr-defined]
    playwright.expect(part).to_contain_text(text, timeout=PATIENCE)


def test_a_visitor_searches_a_symbol_changes_the_interval_and_sees_a_gap(site: Site) -> None:
    with visit(site, "?symbol=BTC/USDT&interval=1s") as page:
        shows(page, "price", re.compile(r"\d"))
        shows(page, "values", "O ")
        candles = page.locator('[data-testid="chart"] svg path')  # type: ignore[attr-defined]
        playwright.expect(candles.first).to_be_attached()
        shows(page, "marks", "gap")
        if os.environ.get("TAPELOOM_PICTURES"):
            page.wait_for_timeout(45_000)  # type: ignore[attr-defined]
            page.screenshot(path=PICTURE)  # type: ignore[attr-defined]
        search = page.locator('[data-testid="symbol"]').first  # type: ignore[attr-defined]
        search.fill("eth")
        page.get_by_role("option", name="binance ETH/USDT").click()  # type: ignore[attr-defined]
        playwright.expect(page).to_have_url(re.compile("ETH"))
        shows(page, "price", re.compile(r"^2\d{3}"))
        interval = page.locator('[data-testid="interval"]').first  # type: ignore[attr-defined]
        interval.fill("10s")
        interval.press("Enter")
        playwright.expect(page).to_have_url(re.compile("interval=10s"))
        page.get_by_role("tab", name="Health").click()  # type: ignore[attr-defined]
        shows(page, "gaps", "disconnect")
        shows(page, "feeds", "binance")
        page.get_by_role("tab", name="Overview").click()  # type: ignore[attr-defined]
        # The tables of the tab before may still be there.
        symbols = page.locator('[data-testid="symbols"]')  # type: ignore[attr-defined]
        symbols.get_by_role("cell", name="BTC/USDT", exact=True).click()
        playwright.expect(page).to_have_url(re.compile("BTC"))


def test_the_page_goes_on_by_itself_after_the_server_was_killed_and_started_again(
    site: Site,
) -> None:
    with visit(site, "?interval=1s") as page:
        shows(page, "price", re.compile(r"\d"))
        site.kill()
        playwright.expect(page.get_by_text("Connection lost")).to_be_visible(timeout=PATIENCE)  # type: ignore[attr-defined]
        site.start()
        playwright.expect(page.get_by_text("Connection lost")).to_be_hidden(timeout=PATIENCE)  # type: ignore[attr-defined]
        shows(page, "price", re.compile(r"\d"))
        shows(page, "trades", re.compile(r"\d\d:\d\d:\d\d"))


def test_on_a_phone_nothing_is_wider_than_the_screen(site: Site) -> None:
    with visit(site, width=390, height=844) as page:
        shows(page, "price", re.compile(r"\d"))
        shows(page, "bids", re.compile(r"\d"))
        width = page.evaluate("document.documentElement.scrollWidth")  # type: ignore[attr-defined]
        lines = page.evaluate(_HEADER_LINES)  # type: ignore[attr-defined]

        choice = page.locator(".choose-symbol").bounding_box()  # type: ignore[attr-defined]

    assert width <= 390
    assert len(lines) <= 2, lines
    assert choice["width"] >= 180  # wide enough for a venue and a symbol
