"""REST requests with their weight, and the events read from the answers."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit

import pytest
import tapeloom_binance
from tapeloom import Secret
from tapeloom.plugin import HistoryQuery, Request
from tapeloom.units import Rate

PERP = "BTC/USDT:USDT"
SPOT = "https://api.binance.com/api/v3"
USDM = "https://fapi.binance.com/fapi/v1"
INVERSE, COINM = "ETH/USD:ETH", "https://dapi.binance.com/dapi/v1"
SECOND = 1_000_000_000
PAST = (
    b'[{"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012",'
    b'"time":1499865549590,"isBuyerMaker":true,"isBestMatch":true}]'
)
AGGREGATES = (
    b'[{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27781,'
    b'"T":1498793709153,"m":false,"M":true}]'
)
KLINE = (
    '[1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",'
    '1499644799999,"2434.19055334",308,"1756.87402397","28.46694368","0"]'
)


def request_parts(request) -> tuple[str, dict[str, str], int]:
    parts = urlsplit(request.url)
    return (
        f"{parts.scheme}://{parts.netloc}{parts.path}",
        dict(parse_qsl(parts.query)),
        request.weight,
    )


def spot(make, *channels: str, **settings):
    return tapeloom_binance.history(make(channels=channels or ("trades",), **settings))


def usdm(make, *channels: str, **settings):
    return tapeloom_binance.history(make("usdm", (PERP,), channels or ("trades",), **settings))


def coinm(make, *channels: str, **settings):
    feed = make("coinm", (INVERSE,), channels or ("trades",), **settings)
    return tapeloom_binance.history(feed)


def test_the_listing_request_has_the_documented_weight(make) -> None:
    assert request_parts(spot(make).listing_request()) == (f"{SPOT}/exchangeInfo", {}, 20)
    assert request_parts(usdm(make).listing_request()) == (f"{USDM}/exchangeInfo", {}, 1)
    assert spot(make).listing_request().rate == Rate(6000, 60)
    assert request_parts(coinm(make).listing_request()) == (f"{COINM}/exchangeInfo", {}, 1)


def test_both_kinds_of_futures_stay_within_the_weight_that_they_share(make) -> None:
    rates = [history.listing_request().rate for history in (usdm(make), coinm(make))]

    assert rates == [Rate(2000, 60), Rate(400, 60)]


@pytest.mark.parametrize(
    ("limit", "in_spot", "in_usdm"),
    [
        (1000, ("1000", 50), ("1000", 20)),
        (5000, ("5000", 250), ("1000", 20)),
        (9000, ("5000", 250), ("1000", 20)),
        (300, ("500", 25), ("500", 10)),
        (1, ("100", 5), ("5", 2)),
    ],
)
def test_a_snapshot_has_at_least_the_configured_levels(make, limit, in_spot, in_usdm) -> None:
    book = spot(make, snapshot_limit=limit).request(HistoryQuery("book", "BTC/USDT"))
    perp = usdm(make, snapshot_limit=limit).request(HistoryQuery("book", PERP))

    assert request_parts(book) == (
        f"{SPOT}/depth",
        {"symbol": "BTCUSDT", "limit": in_spot[0]},
        in_spot[1],
    )
    assert request_parts(perp) == (
        f"{USDM}/depth",
        {"symbol": "BTCUSDT", "limit": in_usdm[0]},
        in_usdm[1],
    )


def test_trades_are_requested_from_the_id_after_the_last_known(make) -> None:
    params = {"symbol": "BTCUSDT", "fromId": "43", "limit": "1000"}
    raw = spot(make).request(HistoryQuery("trades", "BTC/USDT", "trades", after_id=42))
    aggregate = spot(make).request(HistoryQuery("trades", "BTC/USDT", "agg_trades", after_id=42))
    perp = usdm(make).request(HistoryQuery("trades", PERP, "trades", after_id=42))

    assert request_parts(raw) == (f"{SPOT}/historicalTrades", params, 25)
    assert request_parts(aggregate) == (f"{SPOT}/aggTrades", params, 4)
    assert request_parts(perp) == (f"{USDM}/aggTrades", params, 20)
    inverse = coinm(make).request(HistoryQuery("trades", INVERSE, "trades", after_id=42))
    assert request_parts(inverse) == (f"{COINM}/aggTrades", params | {"symbol": "ETHUSD_PERP"}, 20)


def test_aggregate_trades_can_be_requested_by_time_within_an_hour(make) -> None:
    def span(since: int | None, until: int | None) -> tuple[str | None, str | None]:
        query = HistoryQuery("trades", PERP, "trades", since=since, until=until)
        _, params, _ = request_parts(usdm(make).request(query))
        return params.get("startTime"), params.get("endTime")

    assert span(10 * SECOND, 20 * SECOND) == ("10000", "20000")
    assert span(0, 7200 * SECOND) == ("0", "3599999")
    assert span(0, None) == ("0", "3599999")
    assert span(None, None) == (None, None)


def test_raw_trades_of_futures_need_a_key(make) -> None:
    query = HistoryQuery("trades", PERP, "trades", after_id=42)
    request = usdm(make, futures_trades="raw", api_key=Secret("k")).request(query)

    assert usdm(make, futures_trades="raw").request(query) is None
    assert request_parts(request)[0::2] == (f"{USDM}/historicalTrades", 200)
    assert request.headers == {"X-MBX-APIKEY": "k"}
    assert "X-MBX" not in repr(request)


def test_no_request_is_made_for_unavailable_history(make) -> None:
    history = spot(make)

    assert history.request(HistoryQuery("trades", "BTC/USDT", "trades", since=1)) is None
    assert history.request(HistoryQuery("trades", "BTC/USDT", "trades", after_id="abc")) is None
    assert history.request(HistoryQuery("trades", "BTC/USDT", "quotes", after_id=1)) is None
    assert history.request(HistoryQuery("bars", "BTC/USDT", interval="7m")) is None
    assert usdm(make).request(HistoryQuery("bars", PERP, interval="1s")) is None


def test_bars_are_requested_by_their_start_time(make) -> None:
    minute = 60 * SECOND
    query = HistoryQuery("bars", "BTC/USDT", interval="1m", since=minute, until=3 * minute)
    params = {"symbol": "BTCUSDT", "interval": "1m", "startTime": "60000", "endTime": "179999"}

    assert request_parts(spot(make).request(query)) == (
        f"{SPOT}/klines",
        params | {"limit": "1000"},
        2,
    )
    by_channel = usdm(make).request(HistoryQuery("bars", PERP, "klines:4h"))
    assert request_parts(by_channel)[1:] == (
        {"symbol": "BTCUSDT", "interval": "4h", "limit": "1000"},
        5,
    )


@pytest.mark.parametrize(
    ("interval", "spot_days", "coinm_days"),
    [("1h", 1000 / 24, 1000 / 24), ("1d", 1000, 200), ("1M", 28_000, 200)],
)
def test_a_span_holds_no_more_bars_than_one_answer(make, interval, spot_days, coinm_days) -> None:
    """COIN-M gives the last bars of a span, and no span beyond 200 days; the others the first."""
    for history, symbol, days in (
        (spot(make), "BTC/USDT", spot_days),
        (coinm(make), INVERSE, coinm_days),
    ):
        query = HistoryQuery("bars", symbol, interval=interval, since=0)
        _, params, _ = request_parts(history.request(query))

        assert params["startTime"] == "0"
        assert int(params["endTime"]) == round(days * 86_400_000) - 1


def test_microseconds_are_requested_on_spot_only(make) -> None:
    header = {"X-MBX-TIME-UNIT": "MICROSECOND"}

    assert spot(make, microseconds=True).listing_request().headers == header
    assert usdm(make, microseconds=True).listing_request().headers == {}


def test_past_trades_are_read(make) -> None:
    history = spot(make, "trades", "agg_trades")
    (raw,) = history.read_answer(
        Request(url=f"{SPOT}/historicalTrades?symbol=BTCUSDT&fromId=1"), PAST, 7
    )
    (aggregate,) = history.read_answer(
        Request(url=f"{SPOT}/aggTrades?symbol=BTCUSDT"), AGGREGATES, 7
    )

    assert (raw.id, raw.side, raw.ts, raw.recv) == (28457, "sell", 1499865549590 * 10**6, 7)
    assert (str(raw.price), str(raw.size)) == ("4.00000100", "12.00000000")
    assert (raw.channel, raw.origin) == ("trades", "backfill")
    assert (aggregate.id, aggregate.side, aggregate.channel) == (26129, "buy", "agg_trades")


def test_past_trades_of_another_series_are_not_mixed_in(make) -> None:
    history = usdm(make, "trades")
    (trade,) = history.read_answer(Request(url=f"{USDM}/aggTrades?symbol=BTCUSDT"), AGGREGATES, 7)

    assert trade.channel == "trades"
    assert (
        history.read_answer(Request(url=f"{USDM}/historicalTrades?symbol=BTCUSDT"), PAST, 7) == []
    )
    assert (
        spot(make).read_answer(Request(url=f"{SPOT}/aggTrades?symbol=BTCUSDT"), AGGREGATES, 7) == []
    )


def test_past_bars_are_closed_except_a_last_bar_that_is_forming(make) -> None:
    body = f"[{KLINE},{KLINE}]".encode()
    url = f"{SPOT}/klines?symbol=BTCUSDT&interval=1w&limit=2"
    end = 1499644799999 * 10**6
    bars = spot(make).read_answer(Request(url=url), body, end)
    later = spot(make).read_answer(Request(url=url), body, end + 1)
    bar = bars[0]

    assert [bar.closed for bar in bars] == [True, False]
    assert [bar.closed for bar in later] == [True, True]
    assert (bar.ts, bar.interval, bar.channel) == (1499040000000 * 10**6, "1w", "klines:1w")
    assert [str(x) for x in (bar.open, bar.high, bar.low, bar.close, bar.volume)] == [
        "0.01634790", "0.80000000", "0.01575800", "0.01577100", "148976.11427815",
    ]  # fmt: skip
    assert (bar.trades, str(bar.quote_volume), bar.origin) == (308, "2434.19055334", "backfill")
    assert (str(bar.buy_volume), str(bar.buy_quote_volume)) == ("1756.87402397", "28.46694368")


def test_additional_columns_of_a_kline_are_ignored(make) -> None:
    body = f'[{KLINE[:-1]},"new"]]'.encode()

    assert (
        len(
            spot(make).read_answer(
                Request(url=f"{SPOT}/klines?symbol=BTCUSDT&interval=1w"), body, 7
            )
        )
        == 1
    )


def test_answers_are_read_at_any_base_url(make) -> None:
    history = spot(make, base_url="ws://127.0.0.1:8080/sim")
    url = history.request(HistoryQuery("book", "BTC/USDT")).url
    body = b'{"lastUpdateId":3,"bids":[],"asks":[["1.0","2"]]}'
    (book,) = history.read_answer(Request(url=url), body, 7)

    assert url.startswith("http://127.0.0.1:8080/sim/api/v3/depth?")
    assert (book.last_id, book.bids, book.asks) == (3, [], [(Decimal("1.0"), Decimal(2))])


@pytest.mark.parametrize(
    "url",
    [
        f"{SPOT}/depth?symbol=ETHUSDT",
        f"{SPOT}/depth",
        f"{SPOT}/time?symbol=BTCUSDT",
        f"{USDM}/depth?symbol=BTCUSDT",
        "https://example.org/",
    ],
)
def test_the_answer_of_an_unknown_url_gives_no_events(make, url) -> None:
    assert spot(make).read_answer(Request(url=url), b"{}", 7) == []


@pytest.mark.parametrize("price", ["1x", "9" * 50, "1E+9999999"])
def test_a_price_that_is_no_number_is_a_value_error(make, price) -> None:
    row = {"id": 1, "price": price, "qty": "1", "time": 1, "isBuyerMaker": True}
    url = f"{SPOT}/historicalTrades?symbol=BTCUSDT"
    with pytest.raises(ValueError, match="the answer to historicalTrades has an invalid number"):
        spot(make).read_answer(Request(url=url), json.dumps([row]).encode(), 7)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"\xff", b'{"bids":' + b"[" * 100_000])
def test_the_error_for_an_undecodable_body_has_its_path_and_beginning(make, body) -> None:
    with pytest.raises(ValueError, match=r"the answer to depth cannot be decoded: .* It begins: "):
        spot(make).read_answer(Request(url=f"{SPOT}/depth?symbol=BTCUSDT"), body, 7)
    with pytest.raises(ValueError, match="the answer to exchangeInfo cannot be decoded"):
        spot(make).read_listing(body)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            b'{"code":-1121,"msg":"Invalid symbol."}',
            "Invalid symbol. (code -1121) This market",
        ),
        (429, b'{"code":-1003,"msg":"Too much."}', "Too much. (code -1003)"),
        (
            401,
            b'{"code":-2014,"msg":"API-key"}',
            "API-key (code -2014) Check api_key in [venue.bin",
        ),
        (400, b'{"code":-1100,"msg":"Illegal."}', "Illegal. (code -1100)"),
        (418, b"", ""),
        (451, b"<html>", "The venue does not serve the region"),
        (451, b"<b>Blocked</b>", "Blocked The venue does not serve the region"),
        (500, b"oops", "oops"),
    ],
)
def test_a_refusal_reason_has_the_venues_message_and_a_remedy(make, status, body, expected) -> None:
    reason = spot(make).refusal_reason(status, body)

    assert reason.startswith(expected)
    assert bool(reason) == bool(expected)


def test_the_recorded_spot_listing_is_read(make, captures) -> None:
    packed = captures / "binance_spot" / "cf_20211012.rest.api_v3_exchangeInfo.json.gz"
    body = gzip.decompress(packed.read_bytes())
    listed = {instrument.symbol: instrument for instrument in spot(make).read_listing(body)}
    lrc = listed["LRC/BTC"]

    assert len(listed) == len(json.loads(body)["symbols"])
    assert (lrc.native, lrc.kind, lrc.base, lrc.quote) == ("LRCBTC", "spot", "LRC", "BTC")
    assert (lrc.tick, lrc.lot, lrc.active) == (Decimal("0.00000001"), Decimal(1), True)


def test_a_perpetual_that_is_being_delisted_is_still_a_perpetual(make) -> None:
    listed = {
        "symbol": "BLZUSDT", "pair": "BLZUSDT", "contractType": "PERPETUAL", "status": "SETTLING",
        "deliveryDate": 1_790_000_000_000, "onboardDate": 1598252400000, "baseAsset": "BLZ",
        "quoteAsset": "USDT", "marginAsset": "USDT", "pricePrecision": 5, "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0", "maxPrice": "0", "tickSize": "0"},
            {"filterType": "LOT_SIZE", "minQty": "1", "maxQty": "10000000", "stepSize": "1"},
            {"filterType": "MIN_NOTIONAL", "notional": "5.0"},
        ],
    }  # fmt: skip
    (blz,) = usdm(make).read_listing(json.dumps({"symbols": [listed]}).encode())
    dated = listed | {"contractType": "CURRENT_QUARTER", "symbol": "BLZUSDT_260921"}
    (future,) = usdm(make).read_listing(json.dumps({"symbols": [dated]}).encode())

    assert (blz.symbol, blz.kind, blz.active) == ("BLZ/USDT:USDT", "swap", False)
    assert (blz.tick, blz.lot) == (None, Decimal(1))
    assert (future.symbol, future.kind) == ("BLZ/USDT:USDT-260921", "future")


def test_the_recorded_futures_listing_is_read(make, captures) -> None:
    path = captures / "binance_usdm" / "cf_20210722.rest.fapi_v1_exchangeInfo.json"
    history = usdm(make)
    listed = {
        instrument.symbol: instrument for instrument in history.read_listing(path.read_bytes())
    }
    perp, future = listed[PERP], listed["BTC/USDT:USDT-210924"]

    assert len(listed) == len(json.loads(path.read_bytes())["symbols"])
    assert (perp.native, perp.kind, perp.settle) == ("BTCUSDT", "swap", "USDT")
    assert (perp.tick, perp.lot) == (Decimal("0.01"), Decimal("0.001"))
    assert (future.native, future.kind) == ("BTCUSDT_210924", "future")
    names = make("usdm", tuple(listed), ("trades",)).listing.native
    assert {s: i.native for s, i in listed.items()} == names


@pytest.mark.parametrize(
    ("status", "active", "halted"),
    [
        ("TRADING", True, False),
        ("HALT", True, True),
        ("PRE_TRADING", True, False),
        ("BREAK", True, True),
        ("CLOSE", False, False),
    ],
)
def test_a_halt_leaves_a_symbol_active_and_a_delisting_does_not(
    make, status, active, halted
) -> None:
    row = {
        "symbol": "BTCUSDT", "status": status, "baseAsset": "BTC", "quoteAsset": "USDT",
        "filters": [],
    }  # fmt: skip
    history = tapeloom_binance.history(make())
    (listed,) = history.read_listing(json.dumps({"symbols": [row]}).encode())

    assert (listed.active, listed.halted) == (active, halted)


def test_a_listing_of_coin_margined_futures_is_read(make) -> None:
    def row(symbol: str, kind: str, delivery: int, status: str) -> dict[str, object]:
        return {
            "symbol": symbol, "pair": "BTCUSD", "contractType": kind, "deliveryDate": delivery,
            "contractStatus": status, "contractSize": 100, "marginAsset": "BTC",
            "baseAsset": "BTC", "quoteAsset": "USD", "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": "0.1"},
                {"filterType": "LOT_SIZE", "stepSize": "1"},
            ],
        }  # fmt: skip

    rows = [
        row("BTCUSD_PERP", "PERPETUAL", 4_133_404_800_000, "TRADING"),
        row("BTCUSD_260327", "CURRENT_QUARTER", 1_774_598_400_000, "SETTLING"),
    ]
    perp, dated = coinm(make).read_listing(json.dumps({"symbols": rows}).encode())
    feed = make("coinm", (perp.symbol, dated.symbol), ("trades",))

    assert (perp.symbol, perp.kind, perp.settle) == ("BTC/USD:BTC", "swap", "BTC")
    assert (perp.tick, perp.lot, perp.active) == (Decimal("0.1"), Decimal(1), True)
    assert (dated.symbol, dated.kind, dated.active) == ("BTC/USD:BTC-260327", "future", False)
    assert feed.listing.native == {
        instrument.symbol: instrument.native for instrument in (perp, dated)
    }
