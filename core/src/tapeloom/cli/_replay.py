"""``tapeloom replay``: run the whole pipeline over a recording."""

from __future__ import annotations

import argparse
import tomllib
from typing import Any

from tapeloom._config import parse
from tapeloom._stream.opening import open_replay
from tapeloom._tape.reader import Tape
from tapeloom.errors import ConfigError, Mistake

from . import FORMATS, drive, output


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "replay",
        help="run the whole pipeline over a recording",
        description="Run the whole pipeline over a recording (.jsonl, .jsonl.gz or .jsonl.zst). REST"
        " answers that a .rest.index.json beside it lists are given at their place.",
        epilog="example: tapeloom replay day.ws.jsonl.gz --venue binance --market spot"
        " --symbols BTC/USDT --channels trades,book --stages quality,bars,books"
        " --set bars.every=1m --out jsonl",
    )
    parser.add_argument("capture", metavar="CAPTURE")
    parser.add_argument(
        "--venue", default="", help="default: what the tape says, as are the next three"
    )
    parser.add_argument("--market", default="")
    parser.add_argument("--symbols", default="", metavar="S,…", help="as in BTC/USDT,ETH/USDT")
    parser.add_argument("--channels", default="", metavar="C,…", help="as in trades,book")
    parser.add_argument("--stages", default="", metavar="STAGE,…", help="as in quality,bars")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME.KEY=VALUE",
        help="a setting of a stage or of the venue, as in bars.every=1m; may be repeated",
    )
    parser.add_argument("--out", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--speed", default="max", help="max, 1x, 10x, …; default: max")
    parser.add_argument("--batch", type=int, default=256, metavar="FRAMES", help="default: 256")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay; return the exit code."""
    stages = _list(args.stages)
    feed = _feed(args) | {"stages": stages}
    tables: dict[str, Any] = {}
    for text in args.settings:
        name, key, value = setting(text)
        kind = "venue" if name == feed["venue"] and name not in stages else "stage"
        tables.setdefault(kind, {}).setdefault(name, {})[key] = value
    draft = parse({"feed": [feed], **tables}, "the command line")
    if args.batch < 1:
        raise ConfigError(
            [Mistake("--batch", f"expected at least 1, found {args.batch}")], "replay"
        )
    speed = _speed(args.speed)
    return drive(
        lambda: open_replay(args.capture, draft, batch=args.batch, speed=speed), output(args.out)
    )


def _feed(args: argparse.Namespace) -> dict[str, Any]:
    """Return the feed that is asked for; what is not said, the tape may say.

    Raises ConfigError where neither says it, TapeError where the tape cannot be read.
    """
    head = Tape(args.capture).head or {}
    feed = {
        "venue": args.venue or head.get("venue", ""),
        "market": args.market or head.get("market", ""),
        "symbols": _list(args.symbols) or head.get("symbols", []),
        "channels": _list(args.channels) or head.get("channels", []),
    }
    mistakes = [
        Mistake(f"--{key}", "the recording does not say it, so it must be given")
        for key in ("venue", "symbols", "channels")
        if not feed[key]
    ]
    if mistakes:
        raise ConfigError(mistakes, "replay")
    return feed


def setting(text: str) -> tuple[str, str, Any]:
    """Read ``bars.every=1m``; the value is TOML where it is valid TOML, else text.

    Raises ConfigError where *text* has another form.
    """
    name, dot, rest = text.partition(".")
    key, equals, value = rest.partition("=")
    if not (name and dot and key and equals):
        raise ConfigError(
            [Mistake("--set", f"expected NAME.KEY=VALUE as in bars.every=1m, found {text!r}")],
            "replay",
        )
    try:
        return name, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, key, _list(value) if "," in value else value


def _list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not speed > 0:  # nor NaN
        raise ConfigError(
            [Mistake("--speed", f"expected max, 1x, 10x, …, found {text!r}")], "replay"
        )
    return speed
