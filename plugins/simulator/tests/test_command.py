"""The verb ``simulate``."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import anyio
import httpx
import pytest
import tapeloom_simulator
from tapeloom_simulator import serve
from tapeloom_simulator.registry import venue_server

pytest.importorskip("tapeloom_binance", reason="there is no venue to simulate")


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser(prog="tapeloom")
    tapeloom_simulator.commands(parser.add_subparsers())
    return parser.parse_args


def test_the_help_shows_an_example_and_every_option(parse, capsys):
    with pytest.raises(SystemExit):
        parse(["simulate", "--help"])
    text = capsys.readouterr().out

    assert "tapeloom simulate binance --symbols" in text
    for option in (
        "host",
        "port",
        "tls",
        "cert",
        "key",
        "seed",
        "rate",
        "speed",
        "symbols",
        "faults",
        "truth",
        "for",
    ):
        assert f"--{option}" in text


def test_the_markets_time_begins_now_and_not_at_the_last_full_second(parse, tmp_path):
    truth = tmp_path / "truth.jsonl"
    args = parse(["simulate", "binance", "--for", "0.1", "--rate", "500", "--truth", str(truth)])
    before = time.time_ns()
    args.run(args)
    rows = [json.loads(line) for line in truth.read_text().splitlines()]

    assert min(row["ts"] for row in rows if row["type"] == "trade") >= before


async def test_the_markets_time_is_ours_however_long_the_preparation_takes():
    def slow(market):
        time.sleep(0.3)
        return venue_server("binance", market)

    async with serve(slow, epoch=None, rate=500) as sim:
        with anyio.fail_after(20):
            while time.time_ns() - sim.market.now > 100_000_000:  # noqa: ASYNC110
                await anyio.sleep(0.01)


def test_it_runs_for_a_while_and_writes_the_truth(parse, capsys, tmp_path):
    truth, faults = tmp_path / "truth.jsonl", tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "clock_skew_ms"\nvalue = 100\n')
    args = parse(
        [
            "simulate",
            "binance",
            "--for",
            "0.3",
            "--rate",
            "500",
            "--truth",
            str(truth),
            "--faults",
            str(faults),
        ]
    )
    code = args.run(args)
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in truth.read_text().splitlines()]

    assert code == 0
    assert '[venue.binance]\nbase_url = "http://127.0.0.1:' in out
    assert "clock_skew_ms 1" in out
    assert {row["symbol"] for row in rows if row["type"] == "book"} == {
        "BTC/USDT", "ETH/USDT", "BTC/USDT:USDT", "ETH/USDT:USDT",
    }  # fmt: skip
    assert sum(row["type"] == "trade" for row in rows) > 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["binanse"], "Did you mean 'binance'?"),
        (["binance", "--symbols", "BTCUSDT"], "is not a unified symbol"),
        (["binance", "--key", "x.pem"], "give --cert too"),
        (["binance", "--cert", "nowhere.pem"], "No such file"),
        (["binance", "--faults", "nowhere.toml"], "No such file"),
        (["binance", "--rate", "0"], "rate above 0"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(parse, capsys, words, message):
    args = parse(["simulate", *words])
    code = args.run(args)
    err = capsys.readouterr().err

    assert code == 2
    assert message in err
    assert err.startswith("tapeloom simulate: ")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals are of another kind there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number):
    code = (
        "import argparse, sys, tapeloom_simulator as s; p = argparse.ArgumentParser();"
        "s.commands(p.add_subparsers()); a = p.parse_args(['simulate', 'binance']); sys.exit(a.run(a))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stdout.readline() for _ in range(6)]
        process.send_signal(number)
        rest = process.stdout.read()

    assert lines[-1] == "Ctrl-C stops it.\n"
    assert "trades, 0 connections" in rest
    assert process.returncode == 0


async def test_a_certificate_is_made_that_clients_can_trust(tmp_path):
    pytest.importorskip("cryptography", reason="the extra tls is not installed")
    import ssl

    from tapeloom_simulator.certificate import make

    path = tmp_path / "both.pem"
    path.write_bytes(make("127.0.0.1"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(path))
    async with (
        tapeloom_simulator.serve("binance", tls=server) as sim,
        httpx.AsyncClient(trust_env=False, verify=client) as http,
    ):
        answer = await http.get(f"{sim.url}/api/v3/ping")

    assert answer.status_code == 200
