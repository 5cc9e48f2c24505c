"""``tapeloom replay``: runs parser and stages over a recording and prints the events."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from typing import Any

from tapeloom._config import parse
from tapeloom._stream.opening import named, open_replay, open_tapes
from tapeloom.errors import ConfigError, Mistake

from . import FORMATS, drive, output


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = verbs.add_parser(
        "replay",
        help="run the whole pipeline over a recording",
        description="Run the whole pipeline over a recording (.jsonl, .jsonl.gz or .jsonl.zst), or"
        " over several of them, or those in a folder, in order of time. REST responses listed in a"
        " .rest.index.json beside it are processed at their position.",
        epilog="example: tapeloom replay day.ws.jsonl.gz --venue binance --market spot"
        " --symbols BTC/USDT --channels trades,book --stages quality,bars,books"
        " --set bars.every=1m --out jsonl",
    )
    parser.add_argument("captures", metavar="CAPTURE", nargs="+", help="a recording or a folder")
    parser.add_argument(
        "--venue", default="", help="default: from the tape, as for the next three options"
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
        help="a setting of a stage or the venue, as in bars.every=1m; may be repeated",
    )
    parser.add_argument("--out", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--speed", default="max", help="max, 1x, 10x, …; default: max")
    parser.add_argument("--batch", type=int, default=256, metavar="FRAMES", help="default: 256")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay the recording; return the exit code."""
    stages = _list(args.stages)
    feeds = [feed | {"stages": stages} for feed in _feeds(args)]
    venues = {feed["venue"] for feed in feeds}
    tables: dict[str, Any] = {}
    for text in args.settings:
        name, key, value = setting(text)
        kind = "venue" if name in venues and name not in stages else "stage"
        tables.setdefault(kind, {}).setdefault(name, {})[key] = value
    draft = parse({"feed": feeds, **tables}, "the command line")
    if args.batch < 1:
        raise ConfigError([Mistake("--batch", f"expected at least 1, got {args.batch}")], "replay")
    speed = _speed(args.speed)
    return drive(
        lambda: open_replay(args.captures, draft, batch=args.batch, speed=speed),
        output(args.out),
        live=False,
    )


def _feeds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the feed tables from the options and, where these are missing, the heads of the tapes.

    Raises ConfigError if neither has a value, TapeError if a tape cannot be read.
    """
    tapes = named(open_tapes(args.captures))
    return [_feed(args, name, tape.head or {}) for name, tape in tapes.items()]


def _feed(args: argparse.Namespace, name: str, head: Mapping[str, Any]) -> dict[str, Any]:
    feed = {
        "venue": args.venue or head.get("venue", ""),
        "market": args.market or head.get("market", ""),
        "symbols": _list(args.symbols) or head.get("symbols", []),
        "channels": _list(args.channels) or head.get("channels", []),
    }
    mistakes = [
        Mistake(f"--{key}", "the recording does not contain it. Give this option.")
        for key in ("venue", "symbols", "channels")
        if not feed[key]
    ]
    if mistakes:
        raise ConfigError(mistakes, "replay")
    return feed | ({"name": name} if name else {})


def setting(text: str) -> tuple[str, str, Any]:
    """Return name, key and value of an option such as ``bars.every=1m``.

    The value is parsed as TOML if it is valid TOML, else it is a string, or a list if it has commas.
    Raises ConfigError if *text* has another form.
    """
    name, dot, rest = text.partition(".")
    key, equals, value = rest.partition("=")
    if not (name and dot and key and equals):
        raise ConfigError(
            [Mistake("--set", f"expected NAME.KEY=VALUE as in bars.every=1m, got {text!r}")],
            "replay",
        )
    try:
        return name, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, key, _list(value) if "," in value else value


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not speed > 0:  # also rejects NaN
        raise ConfigError([Mistake("--speed", f"expected max, 1x, 10x, …, got {text!r}")], "replay")
    return speed
