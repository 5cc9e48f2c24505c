"""What is secret is on the wire and nowhere else: everything that is written is searched for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from tapeloom.errors import TapeloomError

#: Obvious fakes, each of its own, so that a leak can be told; and the account of the simulated TWS.
SECRETS = {
    "T_BINANCE_KEY": "fakebinancekey1111",
    "T_ALPACA_KEY": "PKFAKEALPACAKEY222",
    "T_ALPACA_SECRET": "fakealpacasecret333",
    "T_CCXT_KEY": "fakeccxtkey4444",
    "T_CCXT_SECRET": "fakeccxtsecret5555",
    "T_PROXY": "fakeproxyword666",
}
HIDDEN = (*SECRETS.values(), "DU1234567")

STACK = """
backend = "asyncio"

[[feed]]
name = "futures"
venue = "binance"
market = "usdm"
symbols = ["BTC/USDT:USDT"]
channels = ["trades"]

[[feed]]
name = "stocks"
venue = "alpaca"
market = "stocks"
symbols = ["AAPL/USD"]
channels = ["trades", "quotes"]

[[feed]]
name = "gateway"
venue = "ib"
symbols = ["MSFT/USD"]
channels = ["trades"]

[[feed]]
name = "generic"
venue = "ccxt"
market = "binance"
symbols = ["BTC/USDT"]
channels = ["trades"]

[venue.binance]
base_url = "{binance}"
futures_trades = "raw"
api_key = {{ env = "T_BINANCE_KEY" }}

[venue.alpaca]
base_url = "{alpaca}"
key_id = {{ env = "T_ALPACA_KEY" }}
secret_key = {{ env = "T_ALPACA_SECRET" }}

[venue.ib]
host = "127.0.0.1"
port = {port}

[venue.ccxt.exchanges.binance]
api_key = {{ env = "T_CCXT_KEY" }}
secret = {{ env = "T_CCXT_SECRET" }}
options = {{ fetchMarkets = {{ types = ["spot"] }} }}

[venue.ccxt.exchanges.binance.urls.api]
public = "{generic}/api/v3"
v1 = "{generic}/api/v3"
ws = {{ spot = "{stream}/stream/ws" }}
"""


def found(text: str) -> list[str]:
    return [secret for secret in HIDDEN if secret in text]


async def tapeloom_says(env: Mapping[str, str], *words: str) -> str:
    """Run the command line; return all that it wrote."""
    command = [sys.executable, "-m", "tapeloom", "--debug", *words]
    done = await anyio.run_process(
        command, check=False, stderr=subprocess.STDOUT, env={**env, "NO_COLOR": "1"}
    )
    return done.stdout.decode()


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("letting_in", [True, False], ids=["let in", "turned away"])
async def test_no_secret_is_in_anything_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letting_in: bool
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    path = tmp_path / "stack.toml"
    faults = [] if letting_in else [simulator.Fault(kind="sub_error", count=0)]
    async with AsyncExitStack() as exits:
        sims: dict[str, Any] = {
            name: await exits.enter_async_context(
                simulator.serve(venue, symbols=symbols, rate=50, faults=faults)
            )
            for name, venue, symbols in (
                ("binance", "binance", ["BTC/USDT:USDT"]),
                ("alpaca", "alpaca", ["AAPL/USD"]),
                ("ib", "ib", ["MSFT/USD"]),
                ("generic", "binance", ["BTC/USDT"]),
            )
        }
        urls = {name: sim.url for name, sim in sims.items()}
        stream = urls["generic"].replace("http", "ws", 1)
        port = urls["ib"].rpartition(":")[2]
        path.write_text(STACK.format(**urls, stream=stream, port=port))
        env = dict(os.environ)
        ran = await tapeloom_says(env, "run", str(path), "--for", "4", "--out", "jsonl")
        if not letting_in:
            assert "refused" in ran
            assert found(ran) == []
            return
        shown = await tapeloom_says(env, "check", str(path), "--resolved")
        wrong = tmp_path / "wrong.toml"
        wrong.write_text(path.read_text().replace("secret_key", "secret_kex"))
        mistaken = await tapeloom_says(env, "check", str(wrong))
        opened = tapeloom.open(str(path))
        objects = f"{opened!r} {opened.plans!r} {[plan.feed.settings for plan in opened.plans]!r}"
        endpoints = " ".join(repr(one) for plan in opened.plans for one in plan.endpoints)

    assert '"type":"trade"' in ran
    assert "alpaca" in shown
    assert "secret_kex" in mistaken
    for text in (ran, shown, mistaken, objects, endpoints):
        assert found(text) == []


def test_a_secret_in_the_file_itself_is_a_mistake_that_does_not_repeat_it(tmp_path: Path) -> None:
    path = tmp_path / "stack.toml"
    path.write_text(
        STACK.format(binance="ws://x", alpaca="ws://x", generic="http://x", stream="ws://x", port=1)
        .replace('{ env = "T_ALPACA_KEY" }', f'"{SECRETS["T_ALPACA_KEY"]}"')
        .replace("port = 1", 'port = "one"')
    )
    with pytest.raises(TapeloomError) as caught:
        tapeloom.open(str(path))

    assert found(f"{caught.value} {caught.value!r}") == []
