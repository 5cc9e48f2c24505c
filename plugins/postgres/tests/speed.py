"""Measures the sink against a bare COPY of the same trades: ``python plugins/postgres/tests/speed.py [PYTHON]``.

PYTHON is that of an environment with cryptofeed and asyncpg, whose writer takes a turn then, too.

In turn, five times: psycopg's `write_row` and a text that is made by hand, into a table without index;
then the sink, with events that are new, and with events that are stored already.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
from tapeloom.events import Quote, Trade
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_postgres import PostgresSink, Settings
from tapeloom_testing.services import PostgresServer

COUNT, BATCH, ROUNDS, PEER_TRADES = 40_960, 4_096, 5, 20_000
START = 1_700_000_000_000_000_000
COLUMNS = (
    "venue text, symbol text, ts bigint, recv bigint, price numeric, size numeric, side text, id text,"
    " seq bigint, channel text, origin text, epoch bigint, n bigint, key text, k integer"
)


def trades(first: int) -> list[Trade]:
    return [
        Trade("binance", f"S{n % 20}/USDT", START + n // 3 * 1_000_000, START + n * 1_000,
              Decimal(6_168_610 + n % 997).scaleb(-2), Decimal(n % 89 + 1).scaleb(-5), "buy" if n % 2 else "sell", n)
        for n in range(first, first + COUNT)
    ]  # fmt: skip


def quotes(first: int) -> list[Quote]:
    return [
        Quote("binance", f"S{n % 20}/USDT", START + n // 3 * 1_000_000, START + n * 1_000,
              Decimal(n % 997 + 1).scaleb(-2), Decimal(n % 89 + 1).scaleb(-5),
              Decimal(n % 997 + 2).scaleb(-2), Decimal(n % 97 + 1).scaleb(-5))
        for n in range(first, first + COUNT)
    ]  # fmt: skip


def batches(events: list) -> list[list]:
    return [events[i : i + BATCH] for i in range(0, len(events), BATCH)]


def row(trade: Trade, number: int) -> tuple:
    return (
        trade.venue, trade.symbol, trade.ts, trade.recv, trade.price, trade.size, trade.side, str(trade.id),
        trade.id, trade.channel, trade.origin, 1, number, "", 0,
    )  # fmt: skip


def copy_rows(database: psycopg.Connection, events: list[Trade]) -> None:
    for batch in batches(events):
        with database.transaction(), database.cursor().copy("COPY bare FROM STDIN") as copy:
            for number, trade in enumerate(batch):
                copy.write_row(row(trade, number))


def copy_text(database: psycopg.Connection, events: list[Trade]) -> None:
    for batch in batches(events):
        with database.transaction(), database.cursor().copy("COPY bare FROM STDIN") as copy:
            lines = ["\t".join(map(str, row(trade, number))) for number, trade in enumerate(batch)]
            copy.write("\n".join(lines) + "\n")


class Written:
    """A sink and the number of what it has written."""

    def __init__(self, dsn: str, schema: str, epoch: int) -> None:
        self.sink, self.epoch, self.last = PostgresSink(Settings(dsn=dsn, schema=schema)), epoch, 0
        self.sink.open(SinkRun("postgres", epoch))

    def write(self, events: list) -> None:
        for batch in batches(events):
            self.sink.write(SinkBatch(self.epoch, self.last + 1, batch, {"a": "b"}))
            self.last += len(batch)


def client_cpu(sink: Written, number: int) -> float:
    """Return the seconds of CPU of this process in which a sink stores new trades."""
    events = trades((100 + number) * COUNT)
    start = time.process_time()
    sink.write(events)
    return time.process_time() - start


def cpu_seconds(database: psycopg.Connection) -> float:
    """Return the processor time of this process and of the server process of a connection."""
    stat = Path(f"/proc/{database.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def cryptofeed(python: str, server: PostgresServer, database: psycopg.Connection) -> float:
    """Return the trades a second of CPU that cryptofeed's writer stores, without that of the server."""
    client = Path(__file__).parents[3] / "tests/bench/clients/cryptofeed_postgres.py"
    database.execute(
        "CREATE TABLE IF NOT EXISTS trades (number serial, timestamp timestamp, receipt timestamp,"
        " exchange text, symbol text, side text, amount numeric, price numeric, id text, type text)"
    )
    database.execute("TRUNCATE trades")
    command = [python, str(client), str(server.port), str(PEER_TRADES)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    stored = database.execute("SELECT count(*) FROM trades").fetchone()
    assert stored == (PEER_TRADES,), stored
    return PEER_TRADES / float(output)


def main() -> None:
    with PostgresServer() as server, psycopg.connect(server.dsn, autocommit=True) as database:
        database.execute(f"CREATE TABLE bare ({COLUMNS})")
        new, again = Written(server.dsn, "new", 1), Written(server.dsn, "new", 2)
        numberless = Written(server.dsn, "numberless", 1)
        steps: dict[
            str, tuple[Callable[[list], None], Callable[[int], list], psycopg.Connection]
        ] = {
            "bare COPY, write_row": (lambda e: copy_rows(database, e), trades, database),
            "bare COPY, own text": (lambda e: copy_text(database, e), trades, database),
            "sink, new trades": (new.write, trades, new.sink._connection),
            "sink, stored trades": (again.write, trades, again.sink._connection),
            "sink, quotes without number": (numberless.write, quotes, numberless.sink._connection),
        }
        rates: dict[str, list[float]] = {name: [] for name in steps}
        cpu: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(-1, ROUNDS):
            for name, (step, make, connection) in steps.items():
                events = make((number + 1) * COUNT)
                start, cpu_start = time.perf_counter(), cpu_seconds(connection)
                step(events)
                if number >= 0:  # the first round warms up
                    rates[name].append(COUNT / (time.perf_counter() - start))
                    cpu[name].append((cpu_seconds(connection) - cpu_start) / COUNT * 1e6)
        if sys.argv[1:]:
            peer = [cryptofeed(sys.argv[1], server, database) for _ in range(ROUNDS)]
            own = [COUNT / client_cpu(new, number) for number in range(ROUNDS)]
            rates_of = statistics.median(own), statistics.median(peer)
            print(
                "sink {:,.0f}, cryptofeed {:,.0f} trades a second of CPU of the client".format(
                    *rates_of
                )
            )
        floor = "bare COPY, own text"
        for name in steps:
            ratio = statistics.median(a / b for a, b in zip(rates[name], rates[floor], strict=True))
            used = statistics.median(cpu[name])
            print(
                f"{name:28} {statistics.median(rates[name]):9,.0f}/s, {ratio:4.0%} of {floor};"
                f" {used:5.2f} us CPU, {statistics.median(cpu[floor]) / used:4.0%}"
            )


if __name__ == "__main__":
    main()
