"""Candles of the time before the stream, from a Parquet store, read in a thread beside the page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import structlog
from tapeloom.errors import SinkRefused
from tapeloom.units import duration_ns
from tapeloom_screens import Candle

__all__ = ["StoredCandles", "read", "stored_candles"]

log = structlog.get_logger()

_DAY = 86_400 * 1_000_000_000
#: Candles that are read at most, and choices of symbol and interval of which they are kept.
_MAX_CANDLES, _MAX_CHOICES = 1_000, 64

Key = tuple[str, str, int, int]


def stored_candles(folder: str) -> Callable[[str, str, int, int], Sequence[Candle]]:
    """Return what returns older candles. Without a *folder* there are none.

    Raises SinkRefused if the store cannot be read.
    """
    if not folder:
        return lambda *_: ()
    try:
        import tapeloom_parquet  # noqa: F401 - an extra
    except ImportError as error:
        raise SinkRefused(
            "store needs tapeloom-parquet, which is not installed. Install tapeloom-web[store], or leave"
            " out `store`."
        ) from error
    if not Path(folder).is_dir():
        raise SinkRefused(f"store: there is no folder {folder!r}. Name that of a Parquet store.")
    return StoredCandles(Path(folder))


class StoredCandles:
    """Reads candles when they are asked for, and has them the next time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tapeloom-web-store")
        self._found: OrderedDict[Key, Future[list[Candle]]] = OrderedDict()

    def __call__(self, venue: str, symbol: str, interval: int, before: int) -> Sequence[Candle]:
        """Return the candles that start before a time in ns; none while they are being read."""
        key = venue, symbol, interval, before
        future = self._found.get(key)
        if future is None:
            future = self._found[key] = self._thread.submit(self._read, *key)
            if len(self._found) > _MAX_CHOICES:
                self._found.popitem(last=False)
        return future.result() if future.done() else ()

    def _read(self, venue: str, symbol: str, interval: int, before: int) -> list[Candle]:
        try:
            return read(self._folder, venue, symbol, interval, before)
        except Exception as error:  # a page without them is better than none
            log.warning("store_unreadable", folder=str(self._folder), reason=str(error))
            return []


def read(folder: Path, venue: str, symbol: str, interval: int, before: int) -> list[Candle]:
    """Return the last candles of a store that start before a time in ns, from its bars, else from trades.

    Raises TapeloomError if there are neither.
    """
    from tapeloom.errors import TapeloomError

    before = min(before, round(datetime.now(UTC).timestamp()) * 1_000_000_000 + _DAY)
    since = before - _MAX_CANDLES * interval
    try:
        rows = _rows(folder, "bar", venue, symbol, since, before)
    except TapeloomError:
        rows = []
    bars = {
        row["ts"]: row for row in rows if duration_ns(row["interval"]) == interval and row["closed"]
    }
    if bars:
        return [_from_bar(bars[start]) for start in sorted(bars)]
    candles: dict[int, Candle] = {}
    for row in sorted(
        _rows(folder, "trade", venue, symbol, since, before), key=lambda row: row["ts"]
    ):
        start = row["ts"] // interval * interval
        candles[start] = _with_trade(candles.get(start), start, row)
    return [candles[start] for start in sorted(candles)]


def _rows(
    folder: Path, kind: str, venue: str, symbol: str, since: int, before: int
) -> list[dict[str, Any]]:
    """Return the rows of a type, of one symbol, with `ts` in ns."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.compute as pc  # type: ignore[import-untyped]
    from tapeloom_parquet import dataset

    def time(ns: int) -> Any:
        return pa.scalar(ns, pa.timestamp("ns", "UTC"))

    first = datetime.fromtimestamp(max(since, 0) // 1_000_000_000, UTC) - timedelta(days=1)
    ts = pc.field("ts")
    wanted = (
        (pc.field("venue") == venue) & (pc.field("date") >= f"{first:%Y-%m-%d}")
        & (pc.field("symbol") == symbol) & (ts >= time(max(since, 0))) & (ts < time(before))
    )  # fmt: skip
    names = {
        "bar": [
            "open",
            "high",
            "low",
            "close",
            "volume",
            "interval",
            "closed",
            "complete",
            "revision",
        ],
        "trade": ["price", "size"],
    }
    table = dataset(folder, kind).to_table(columns=["ts", *names[kind]], filter=wanted)
    table = table.set_column(0, "ts", table["ts"].cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _from_bar(row: dict[str, Any]) -> Candle:
    source: Literal["bars"] = "bars"
    return Candle(
        row["ts"], row["open"], row["high"], row["low"], row["close"], row["volume"], None, source,
        revised=bool(row["revision"]), complete=row["complete"],
    )  # fmt: skip


def _with_trade(candle: Candle | None, start: int, row: dict[str, Any]) -> Candle:
    price, size = row["price"], row["size"]
    if candle is None:
        return Candle(start, price, price, price, price, size, 1)
    return Candle(
        start, candle.open, max(candle.high, price), min(candle.low, price), price,
        candle.volume + size, (candle.trades or 0) + 1,
    )  # fmt: skip
