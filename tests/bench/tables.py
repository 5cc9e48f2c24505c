"""What is measured: contestants, and the work that they are given."""

from __future__ import annotations

from attrs import frozen

__all__ = ["TABLES", "Contestant", "Table"]


@frozen
class Contestant:
    """A program that receives what the server sends, and prints what it took."""

    label: str
    script: str
    options: tuple[str, ...] = ()
    peer: str = ""  #: whose environment it needs; by default ours
    server: tuple[str, ...] = ()  #: options of the server, beyond the table's
    count: int = 0  #: where it is too slow for all of them

    @property
    def own(self) -> bool:
        """Whether it is tapeloom."""
        return self.script in ("ours", "ours_book") or self.label.startswith("tapeloom")


@frozen
class Table:
    """Contestants on the same work; `reference` is the label to which the others' ratios are."""

    title: str
    contestants: tuple[Contestant, ...]
    reference: str
    count: int = 200_000
    server: tuple[str, ...] = ()
    tls: bool = False
    figures: tuple[str, ...] = ("rate", "cpu_us", "memory_mb")
    drawn: str = "rate"
    unit: str = "trades a second; more is better"


def ours(words: str, *options: str, server: tuple[str, ...] = ()) -> Contestant:
    """Return tapeloom with options."""
    return Contestant(f"tapeloom, {words}", "ours", options, server=server)


def cryptofeed(loop: str, *options: str) -> Contestant:
    """Return cryptofeed on an event loop."""
    options = ("--loop", loop, *options)
    return Contestant(f"cryptofeed, {loop}", "cryptofeed_", options, peer="cryptofeed-3.11")


FLOOR = Contestant("picows + msgspec decode", "floor")
RECEIVERS = (
    Contestant("tapeloom's link, asyncio", "receive"),
    Contestant("tapeloom's link, uvloop", "receive", ("--loop", "uvloop")),
    Contestant("tapeloom's link, trio", "receive", ("--loop", "trio")),
    Contestant("httpx-ws unchanged", "receive", ("--session", "stock"), count=30_000),
    Contestant("picows", "floor", ("--decode", "no")),
)
STREAMS = (
    ours("asyncio"),
    ours("uvloop", "--loop", "uvloop"),
    ours("trio", "--loop", "trio"),
    ours("asyncio, gc at 50,000", "--gc", "50000"),
    ours("picows", "--transport", "picows"),
    ours("picows, gc at 50,000", "--transport", "picows", "--gc", "50000"),
    ours("a plain call per trade", "--way", "plain"),
    ours("an async call per trade", "--way", "callback"),
    cryptofeed("asyncio"),
    cryptofeed("uvloop"),
)
SLOW = (
    Contestant("ccxt.pro", "ccxt_", peer="ccxt", count=50_000),
    Contestant("nautilus_trader, live", "nautilus_", peer="nautilus", count=50_000),
)
PACED = (
    ours("asyncio", "--late"),
    ours("uvloop", "--late", "--loop", "uvloop"),
    ours("uvloop, a plain call", "--late", "--loop", "uvloop", "--way", "plain"),
    ours("uvloop, 1 ms delay", "--late", "--loop", "uvloop", "--delay", "0.001"),
    ours("picows, uvloop", "--late", "--loop", "uvloop", "--transport", "picows"),
    cryptofeed("asyncio", "--late"),
    cryptofeed("uvloop", "--late"),
    Contestant("picows alone, uvloop", "floor", ("--late", "--loop", "uvloop", "--decode", "no")),
)
LATE = ("cpu_us", "p50", "p99", "p99.9")


def grown(most: int, what: str) -> tuple[Contestant, ...]:
    """Return tapeloom and the floor, with one symbol and with many."""
    return tuple(
        Contestant(
            f"{who}, {n:,} {what}{'s' * (n > 1)}", script, ("--symbols", str(n)),
            server=("--symbols", str(n)),
        )
        for who, script in (("tapeloom", "ours"), ("picows + msgspec decode", "floor"))
        for n in (1, most)
    )  # fmt: skip


TABLES = {
    "receive": Table(
        "Receiving alone, ws", RECEIVERS, "httpx-ws unchanged",
        unit="frames a second; more is better",
    ),
    "receive_tls": Table(
        "Receiving alone, wss", RECEIVERS, "httpx-ws unchanged", tls=True,
        unit="frames a second; more is better",
    ),
    "plain": Table(
        "From the socket to the consumer, ws", (*STREAMS, *SLOW, FLOOR), "cryptofeed, asyncio"
    ),
    "tls": Table(
        "From the socket to the consumer, wss", (*STREAMS, FLOOR), "cryptofeed, asyncio", tls=True
    ),
    "paced": Table(
        "10,000 lone frames a second, ws", PACED, "cryptofeed, uvloop", count=50_000,
        server=("--rate", "10000"), figures=LATE, drawn="cpu_us",
        unit="µs of CPU per trade; less is better",
    ),
    "paced_tls": Table(
        "10,000 lone frames a second, wss", PACED, "cryptofeed, uvloop", count=50_000,
        server=("--rate", "10000"), tls=True, figures=LATE, drawn="cpu_us",
        unit="µs of CPU per trade; less is better",
    ),
    "book": Table(
        "Changes of a book, 18 levels a side, to its best 10",
        (
            Contestant("tapeloom, asyncio", "ours_book"),
            Contestant("cryptofeed, asyncio", "cryptofeed_book", peer="cryptofeed-3.13"),
        ),
        "cryptofeed, asyncio", count=20_000, server=("--changes", "20000"),
        unit="changes a second; more is better",
    ),
    "symbols": Table(
        "1 symbol, 1,000 symbols", grown(1000, "symbol"), "tapeloom, 1 symbol",
        figures=("cpu_us", "rate", "memory_mb"), drawn="cpu_us",
        unit="µs of CPU per trade; less is better",
    ),
    "connections": Table(
        "1 connection, 50 connections",
        tuple(
            ours(
                f"{n} connection{'s' * (n > 1)}", "--symbols", "50", "--feeds", str(n),
                server=("--symbols", "50"),
            )
            for n in (1, 50)
        ),
        "tapeloom, 1 connection", figures=("cpu_us", "rate", "memory_mb"), drawn="cpu_us",
        unit="µs of CPU per trade; less is better",
    ),
    "consumers": Table(
        "1 consumer, 10 consumers",
        tuple(
            ours(f"{n} consumer{'s' * (n > 1)}", "--consumers", str(n)) for n in (1, 10)
        ),
        "tapeloom, 1 consumer", figures=("cpu_us", "rate", "memory_mb"), drawn="cpu_us",
        unit="µs of CPU per trade; less is better",
    ),
}  # fmt: skip
