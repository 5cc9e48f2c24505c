"""The command ``simulate``."""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import ExitStack

    from .simulation import Simulation

__all__ = ["add"]

_EXAMPLE = """\
example:
  tapeloom simulate binance --symbols BTC/USDT,BTC/USDT:USDT --rate 50 --port 9001

Spot and futures of the venue are served on one port. Point a stack at it with the lines it
prints, and stop it with Ctrl-C. A file of faults has tables such as:

  [[fault]]
  kind = "disconnect"      # README of tapeloom-simulator: all kinds
  at = 10                  # seconds after the start
  how = "abrupt"
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    verb = verbs.add_parser(
        "simulate",
        help="run a venue of your own, on this machine",
        description="Simulate a venue: its WebSocket and REST interface, fed by a made-up market.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "venue", metavar="VENUE", help="the plugin whose server side is to run, e.g. binance"
    )
    verb.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: this machine only)"
    )
    verb.add_argument(
        "--port", type=int, default=0, help="the port to listen on (default: any free one)"
    )
    verb.add_argument(
        "--tls",
        action="store_true",
        help="speak TLS, with a certificate made for this run unless given",
    )
    verb.add_argument("--cert", type=Path, metavar="FILE", help="the certificate for --tls, PEM")
    verb.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM")
    verb.add_argument(
        "--seed", type=int, default=0, help="the same seed makes the same market (default: 0)"
    )
    verb.add_argument(
        "--rate",
        type=float,
        default=20.0,
        metavar="N",
        help="trades a second, of all symbols (default: 20)",
    )
    verb.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="how fast the market's time goes (default: 1)",
    )
    verb.add_argument("--symbols", default="BTC/USDT,ETH/USDT,BTC/USDT:USDT,ETH/USDT:USDT", metavar="A,B",
                      help="unified symbols (default: %(default)s)")  # fmt: skip
    verb.add_argument("--faults", type=Path, metavar="FILE.toml", help="faults to inject")
    verb.add_argument(
        "--truth", type=Path, metavar="FILE.jsonl", help="write down all that really happened"
    )
    verb.add_argument(
        "--for", type=float, dest="seconds", metavar="SECONDS", help="stop after so long"
    )
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    import anyio
    from tapeloom.errors import TapeloomError

    try:
        anyio.run(_run, args)
    except (TapeloomError, ValueError, OSError) as problem:
        print(f"tapeloom simulate: {problem}", file=sys.stderr)
        return 2
    return 0


async def _run(args: argparse.Namespace) -> None:
    from contextlib import ExitStack

    import anyio

    from .simulation import serve

    with ExitStack() as files:
        tls = _tls(args, files)
        async with serve(
            args.venue,
            symbols=[symbol.strip() for symbol in args.symbols.split(",") if symbol.strip()],
            seed=args.seed,
            rate=args.rate,
            speed=args.speed,
            faults=args.faults or (),
            truth=args.truth,
            keep=False,
            epoch=None,
            host=args.host,
            port=args.port,
            tls=tls,
        ) as sim:
            print(
                f"{args.venue} is simulated on {sim.url}. Lines for a stack:\n\n[venue.{args.venue}]"
            )
            for key, value in sim.settings.items():
                print(
                    f'{key} = "{value}"'
                    if isinstance(value, str)
                    else f"{key} = {str(value).lower()}"
                )
            with _signals() as signalled, anyio.move_on_after(args.seconds):
                print("\nCtrl-C stops it.", flush=True)
                await signalled()
            await sim.stop()
            print(_summary(sim))


@contextmanager
def _signals() -> Iterator[Callable[[], Awaitable[None]]]:
    """Catch SIGINT and SIGTERM; yield a function that waits for the first of them."""
    import signal

    import anyio

    try:
        signals = anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM)
        received = signals.__enter__()
    except NotImplementedError:  # Windows: Ctrl-C raises KeyboardInterrupt
        yield anyio.sleep_forever
        return

    async def first() -> None:
        await anext(received)

    try:
        yield first
    finally:
        signals.__exit__(None, None, None)


def _summary(sim: Simulation) -> str:
    truth = sim.truth
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(truth.fault_counts().items()))
    return (
        f"{truth.trade_count} trades, {len(truth.connections)} connections,"
        f" {len(truth.rest_calls)} REST calls, faults: {faults or 'none'}"
    )


def _tls(args: argparse.Namespace, files: ExitStack) -> ssl.SSLContext | None:
    if not (args.tls or args.cert or args.key):
        return None
    import ssl
    from tempfile import TemporaryDirectory

    cert, key = args.cert, args.key
    if not cert:
        if key:
            raise ValueError("--key needs the certificate that belongs to it: give --cert too")
        cert = key = _certificate(Path(files.enter_context(TemporaryDirectory())), args.host)
        print(f"A certificate was made for this run. Clients trust it with SSL_CERT_FILE={cert}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def _certificate(folder: Path, host: str) -> Path:
    """Write a self-signed certificate for *host* and its private key to one file; return its path.

    Raises ValueError if the package cryptography is not installed.
    """
    try:
        from .certificate import make
    except ImportError as problem:
        raise ValueError(
            "--tls without --cert and --key needs the package cryptography."
            " Run pip install cryptography, or give both files."
        ) from problem
    path = folder / "simulator.pem"
    path.touch(mode=0o600)
    path.write_bytes(make(host))
    return path
