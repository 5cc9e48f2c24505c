"""Contracts, limits and pacing: symbols become contracts, or are refused with a reason."""

from __future__ import annotations

import pytest
from ib_async import Contract, ContractDetails
from tapeloom.errors import ConfigError, SymbolError
from tapeloom_ib import ContractTable, Settings, connect
from tapeloom_ib.codes import masked
from tapeloom_ib.contracts import chosen, contract, instrument
from tapeloom_ib.pacing import Pacing


def shape(symbol, **more):
    found = contract(symbol, Settings(**more))
    return found.secType, found.symbol, found.exchange, found.currency


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("AAPL/USD", ("STK", "AAPL", "SMART", "USD")),
        ("BRK.B/USD", ("STK", "BRK B", "SMART", "USD")),
        ("SAP/EUR", ("STK", "SAP", "SMART", "EUR")),
        ("EUR/USD", ("CASH", "EUR", "IDEALPRO", "USD")),
        ("BTC/USD", ("CRYPTO", "BTC", "PAXOS", "USD")),
    ],
)
def test_contracts_of_stocks_currencies_and_coins_follow_from_rules(symbol, expected):
    assert shape(symbol) == expected


def test_the_exchange_of_coins_is_a_setting():
    assert shape("BTC/USD", crypto_exchange="ZEROHASH")[2] == "ZEROHASH"


def test_other_contracts_are_described_by_a_table():
    tables = {
        "ES/USD": ContractTable(sec_type="FUT", exchange="CME", expiry="202612", multiplier="50"),
        "BTC/USD": ContractTable(sec_type="STK", exchange="SMART", primary_exchange="ARCA"),
        "X/USD": ContractTable(con_id=42, exchange="SMART"),
    }
    future = contract("ES/USD", Settings(contracts=tables))
    numbered = contract("X/USD", Settings(contracts=tables))

    assert future == Contract(secType="FUT", symbol="ES", exchange="CME", currency="USD",
                              lastTradeDateOrContractMonth="202612", multiplier="50")  # fmt: skip
    assert shape("BTC/USD", contracts=tables)[0] == "STK"
    assert (numbered.conId, numbered.symbol) == (42, "")


def test_the_expiry_of_a_future_is_taken_from_its_symbol():
    table = {"ES/USD:USD-261218": ContractTable(sec_type="FUT", exchange="CME")}
    found = contract("ES/USD:USD-261218", Settings(contracts=table))

    assert found.lastTradeDateOrContractMonth == "20261218"


def test_the_error_for_an_unknown_contract_shows_a_table():
    with pytest.raises(SymbolError, match=r'contracts\."ES/USD:USD" = \{ sec_type = "FUT"'):
        contract("ES/USD:USD", Settings())
    with pytest.raises(ValueError, match="needs sec_type or con_id"):
        Settings(contracts={"ES/USD": ContractTable(exchange="CME")})
    with pytest.raises(ValueError, match="unified symbols"):
        Settings(contracts={"ES": ContractTable(sec_type="FUT")})


def details(**fields):
    return ContractDetails(contract=Contract(**fields), minTick=0.01, sizeIncrement=0.0001)


def test_exactly_one_contract_must_match():
    asked = Contract(secType="STK", symbol="A", exchange="SMART", currency="USD")
    stock = details(secType="STK", conId=1, symbol="A", exchange="NASDAQ", primaryExchange="NASDAQ")
    other = details(secType="STK", conId=2, symbol="A", exchange="LSE", primaryExchange="LSE")
    option = details(secType="OPT", conId=3)

    assert chosen("A/USD", asked, [option, stock]) is stock
    assert stock.contract.exchange == "SMART"
    with pytest.raises(SymbolError, match=r"2 were found: A STK NASDAQ.*A STK LSE"):
        chosen("A/USD", asked, [stock, other])
    with pytest.raises(SymbolError, match="0 were found"):
        chosen("A/USD", asked, [option])


def test_tick_and_lot_have_the_digits_of_the_gateway():
    found = instrument("A/USD", details(conId=7))

    assert (str(found.tick), str(found.lot), found.native) == ("0.01", "0.0001", "7")


@pytest.mark.parametrize(
    ("settings", "port"),
    [({}, 7496), ({"paper": True}, 7497), ({"gateway": True}, 4001),
     ({"gateway": True, "paper": True}, 4002), ({"port": 9, "paper": True}, 9)],
)  # fmt: skip
def test_the_port_depends_on_program_and_account(settings, port):
    assert Settings(**settings).address == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("symbols", "channels", "settings", "problem"),
    [
        (3, ("trades", "quotes"), {}, "needs 6 tick-by-tick streams"),
        (6, ("trades",), {"lines": 100}, "has 5"),
        (4, ("book:5",), {}, "4 market depths"),
        (101, ("klines:5s",), {}, "101 streams"),
        (1, ("klines:1m",), {}, "klines:5s"),
        (1, ("book",), {}, "book:5"),
        (1, ("book:61",), {}, "1 to 60"),
        (1, ("ticker",), {}, "no channel 'ticker'"),
        (1, ("trades:x",), {}, "takes no parameter"),
    ],
)
def test_unavailable_streams_are_refused_before_connecting(
    make, symbols, channels, settings, problem
):
    names = [f"S{number}/USD" for number in range(symbols)]
    with pytest.raises(ConfigError, match=problem):
        connect(make(names, channels, **settings))


@pytest.mark.parametrize(
    ("symbols", "channels", "settings"),
    [(5, ("trades",), {}), (10, ("trades",), {"lines": 101}), (50, ("quotes",), {"quotes": "top"}),
     (3, ("book:5",), {}), (100, ("klines:5s",), {})],
)  # fmt: skip
def test_streams_within_the_account_limits_are_allowed(make, symbols, channels, settings):
    names = [f"S{number}/USD" for number in range(symbols)]

    assert connect(make(names, channels, **settings)).backends == {"asyncio"}


def test_repeated_requests_and_bar_requests_are_paced():
    pace = Pacing(15.0)

    assert pace.wait_seconds("a", False, 100.0) == 0
    assert pace.wait_seconds("a", False, 110.0) == 5
    assert pace.wait_seconds("a", False, 115.0) == 0
    assert [pace.wait_seconds(number, True, 200.0) for number in range(60)] == [0] * 60
    assert pace.wait_seconds("one more", True, 300.0) == 500
    assert pace.wait_seconds("one more", True, 800.0) == 0


def test_account_numbers_are_masked():
    for account in ("DU1234567", "U1234567", "F1234567", "DF7654321"):
        assert account not in masked(f"no permissions for {account}: ask")
    assert masked("10190: max 5 of S1234567") == "10190: max 5 of S1234567"
