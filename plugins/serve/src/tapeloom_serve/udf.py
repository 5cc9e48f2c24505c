"""TradingView's protocol for data feeds (UDF), of the bars in memory: for charts that speak it.

A symbol is named `venue:BTC/USDT`. Everything that is asked for is answered from memory; what is older is
"no_data".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from .window import Series, Window

__all__ = ["routes"]

#: Our units of time, and those of a resolution: minutes have no letter.
_UNITS = {"s": "S", "m": "", "h": "", "d": "D", "w": "W"}
#: Symbols of an answer to a search, at most.
_MAX_FOUND = 200


def _resolution(interval: str) -> str:
    """Return an interval such as "4h" as a resolution such as "240"; empty if it has none."""
    match = re.fullmatch(r"(\d+)([smhdw])", interval)
    if match is None:
        return ""
    number = int(match[1]) * (60 if match[2] == "h" else 1)
    return f"{number}{_UNITS[match[2]]}"


def routes(window: Window, clock: Callable[[], float] = time.time) -> list[BaseRoute]:
    """Return the routes below `/udf`. *clock* returns the time in seconds since 1970."""

    def config(request: Request) -> Response:
        return JSONResponse(
            {
                "supported_resolutions": sorted(filter(None, _resolutions(window))),
                "supports_search": True,
                "supports_group_request": False,
                "supports_marks": False,
                "supports_timescale_marks": False,
                "supports_time": True,
            }
        )

    def server_time(request: Request) -> Response:
        return PlainTextResponse(str(int(clock())))

    def symbols(request: Request) -> Response:
        name = request.query_params.get("symbol", "")
        for venue, symbol in _names(window):
            if name in (f"{venue}:{symbol}", symbol):
                return JSONResponse(_symbol(window, venue, symbol))
        return JSONResponse({"s": "error", "errmsg": "unknown_symbol"}, 404)

    def search(request: Request) -> Response:
        query = request.query_params.get("query", "").lower()
        exchange = request.query_params.get("exchange", "")
        found = [
            {
                "symbol": symbol,
                "full_name": f"{venue}:{symbol}",
                "ticker": f"{venue}:{symbol}",
                "description": symbol,
                "exchange": venue,
                "type": "crypto",
            }
            for venue, symbol in _names(window)
            if query in f"{venue}:{symbol}".lower() and exchange in ("", venue)
        ]
        return JSONResponse(found[:_MAX_FOUND])

    def history(request: Request) -> Response:
        try:
            return JSONResponse(_history(window, request.query_params))
        except ValueError as error:
            return JSONResponse({"s": "error", "errmsg": str(error)}, 400)

    handlers = (config, symbols, search, history)
    found: list[BaseRoute] = [Route(f"/udf/{handler.__name__}", handler) for handler in handlers]
    return [*found, Route("/udf/time", server_time)]


def _names(window: Window) -> list[tuple[str, str]]:
    return sorted({(venue, symbol) for venue, symbol, _ in window.series})


def _resolutions(window: Window, venue: str = "", symbol: str = "") -> set[str]:
    return {
        _resolution(interval)
        for of_venue, of_symbol, interval in window.series
        if venue in ("", of_venue) and symbol in ("", of_symbol)
    }


def _symbol(window: Window, venue: str, symbol: str) -> dict[str, Any]:
    resolutions = sorted(filter(None, _resolutions(window, venue, symbol)))
    return {
        "name": symbol,
        "ticker": f"{venue}:{symbol}",
        "description": symbol,
        "type": "crypto",
        "session": "24x7",
        "timezone": "Etc/UTC",
        "exchange": venue,
        "listed_exchange": venue,
        "minmov": 1,
        "pricescale": 100_000_000,
        "has_intraday": True,
        "has_seconds": any(found.endswith("S") for found in resolutions),
        "supported_resolutions": resolutions,
        "volume_precision": 8,
        "data_status": "streaming",
    }


def _history(window: Window, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the bars that a query asks for. Raises ValueError if it is wrong."""
    numbers = {}
    for key, default in (("from", "0"), ("to", "9999999999"), ("countback", "0")):
        text = query.get(key, default)
        if not re.fullmatch(r"-?[0-9]{1,12}", text):
            raise ValueError(f"{key}: expected a whole number of seconds, got {text[:40]!r}")
        numbers[key] = int(text)
    series = _series(window, query.get("symbol", ""), query.get("resolution", ""))
    candles = window.candles(series, until=numbers["to"])
    if numbers["countback"] > 0:
        candles = candles[-numbers["countback"] :]
    else:
        candles = [candle for candle in candles if candle.time >= numbers["from"]]
    if not candles:
        return {"s": "no_data"}
    times, opens, highs, lows, closes, volumes = zip(*candles, strict=True)
    return {"s": "ok", "t": times, "o": opens, "h": highs, "l": lows, "c": closes, "v": volumes}


def _series(window: Window, symbol: str, resolution: str) -> Series:
    resolution = {"D": "1D", "W": "1W"}.get(resolution, resolution)
    for series in window.series:
        venue, name, interval = series
        if symbol in (f"{venue}:{name}", name) and _resolution(interval) == resolution:
            return series
    raise ValueError(
        f"there are no bars of {symbol[:80]!r} with the resolution {resolution[:20]!r}"
    )
