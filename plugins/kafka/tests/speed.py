"""Measures the sink beside bare confluent-kafka: ``python plugins/kafka/tests/speed.py [PYTHON]``.

PYTHON is that of an environment with cryptofeed and aiokafka; cryptofeed's writer takes a turn then, too.

The brokers are librdkafka's mock cluster, in a process of its own: they keep messages in memory, so this compares
what the clients cost and no more; a real broker takes longer. The floor is a bare idempotent producer that sends the
same lines of JSON, which lie ready, and waits for each batch to be acknowledged. All take turns in one run; the medians
are printed, by the clock, and by the CPU time of the process, which for confluent-kafka has that of its threads.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from random import Random
from statistics import median

from confluent_kafka import Producer
from tapeloom.events import Event, Trade, encode
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_kafka import KafkaSink, Settings

ROUNDS, SECONDS, BATCH, PEER_TRADES = 5, 2.0, 4096, 5_000
#: Trades a second: of the clock, and of CPU.
Rates = tuple[float, float]
#: Runs brokers until its input ends.
BROKERS = """
import sys
from tapeloom_testing.services import KafkaMockCluster
with KafkaMockCluster() as cluster:
    print(cluster.bootstrap_servers, flush=True)
    sys.stdin.read()
"""


def trades(count: int, rng: Random) -> list[Event]:
    return [
        Trade(
            "binance", rng.choice(("BTC/USDT", "ETH/USDT")), 1_700_000_000_000_000_000 + n * 1_000_000,
            1_700_000_000_000_000_500 + n * 1_000_000, Decimal(f"{rng.randrange(99999)}.{n % 90 + 10}"),
            Decimal(f"0.{rng.randrange(10000, 99999)}"), "buy", 10**9 + n,
        )
        for n in range(count)
    ]  # fmt: skip


def topics(servers: str, *names: str) -> None:
    """Let the mock have these topics: it makes them when somebody asks for them."""
    toucher = Producer({"bootstrap.servers": servers, "log_level": 0})
    for name in names:
        toucher.list_topics(name, timeout=10)


def floor(servers: str, events: list[Event]) -> Rates:
    name = f"floor{uuid.uuid4().hex}"
    topics(servers, name)
    lines = [(event.symbol, encode(event)) for event in events]
    producer = Producer(
        {"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
    )
    producer.list_topics(name, timeout=10)
    start, cpu, written = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < SECONDS:
        for symbol, line in lines:
            producer.produce(name, line, symbol)
        assert not producer.flush(30)
        written += len(events)
    return written / (time.perf_counter() - start), written / (time.process_time() - cpu)


def sink(servers: str, events: list[Event], *, transactions: bool) -> Rates:
    name = f"sink{uuid.uuid4().hex}"
    topics(servers, f"{name}.trade", f"{name}.cursor.sink")
    settings = Settings(
        servers=servers, topic=f"{name}.{{type}}", cursor_topic=f"{name}.cursor.{{sink}}",
        transactions=transactions,
    )  # fmt: skip
    with closing(KafkaSink(settings)) as tested:
        tested.open(SinkRun("sink", 1))
        written = 0
        start, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < SECONDS:
            tested.write(SinkBatch(1, written + 1, events))
            written += len(events)
        return written / (time.perf_counter() - start), written / (time.process_time() - cpu)


def cryptofeed(python: str, servers: str) -> Rates:
    key = f"peer{uuid.uuid4().hex}"
    topics(servers, f"{key}-BINANCE-BTC-USDT")
    client = Path(__file__).parents[3] / "tests/bench/clients/cryptofeed_kafka.py"
    command = [python, str(client), servers, key, str(PEER_TRADES)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall, cpu = map(float, output.split())
    return PEER_TRADES / wall, PEER_TRADES / cpu


def main() -> None:
    events = trades(BATCH, Random(1))
    measured: dict[str, list[Rates]] = {"floor": [], "sink": [], "transactions": []}
    if sys.argv[1:]:
        measured["cryptofeed"] = []
    brokers = subprocess.Popen(
        [sys.executable, "-c", BROKERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with brokers:
        assert brokers.stdout is not None
        assert brokers.stdin is not None
        servers = brokers.stdout.readline().strip()
        for _ in range(ROUNDS):
            measured["floor"].append(floor(servers, events))
            measured["sink"].append(sink(servers, events, transactions=False))
            measured["transactions"].append(sink(servers, events, transactions=True))
            if sys.argv[1:]:
                measured["cryptofeed"].append(cryptofeed(sys.argv[1], servers))
        brokers.stdin.close()
    for index, clock in enumerate(("wall", "CPU")):
        base = median(rates[index] for rates in measured["floor"])
        for kind, turns in measured.items():
            rate = median(rates[index] for rates in turns)
            print(f"{kind:15} {clock} {rate:>9,.0f} trades/s  {rate / base:.2f} of the floor")


if __name__ == "__main__":
    main()
