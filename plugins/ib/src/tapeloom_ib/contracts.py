"""From a unified symbol to the contract that Interactive Brokers knows.

There is no list of all symbols to ask for: stocks, currency pairs and the usual coins are formed by
rule, everything else stands in the stack. (TWS API, "Contracts".)
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from attrs import asdict
from tapeloom.errors import SymbolError
from tapeloom.symbols import Instrument, Symbol

from .settings import ContractTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ib_async import Contract, ContractDetails

    from .settings import Settings

__all__ = ["chosen", "contract", "instrument"]

#: What is traded at IDEALPRO; a pair of two of these is a currency pair.
CURRENCIES = frozenset(
    [
        "AUD",
        "CAD",
        "CHF",
        "CNH",
        "CZK",
        "DKK",
        "EUR",
        "GBP",
        "HKD",
        "HUF",
        "ILS",
        "JPY",
        "KRW",
        "MXN",
        "NOK",
        "NZD",
        "PLN",
        "RON",
        "SEK",
        "SGD",
        "TRY",
        "USD",
        "ZAR",
    ]
)
#: What is a coin before it is a stock. Anything else needs a table.
COINS = frozenset(["BTC", "ETH", "LTC", "BCH", "SOL", "ADA", "XRP", "DOGE", "AVAX", "LINK"])


def _by_rule(symbol: Symbol, settings: Settings) -> ContractTable:
    if symbol.settle:
        raise SymbolError(
            f"Interactive Brokers needs more than the name of {symbol}. Describe it in the stack:"
            f' [venue.ib] contracts."{symbol}" = {{ sec_type = "FUT", exchange = "CME" }}'
        )
    if symbol.base in CURRENCIES and symbol.quote in CURRENCIES:
        return ContractTable(sec_type="CASH", exchange="IDEALPRO")
    if symbol.base in COINS:
        return ContractTable(sec_type="CRYPTO", exchange=settings.crypto_exchange)
    # Class shares are written with a space there, with a dot here.
    return ContractTable(sec_type="STK", exchange="SMART", symbol=symbol.base.replace(".", " "))


def contract(text: str, settings: Settings) -> Contract:
    """Return the contract to ask for *text*.

    Raises SymbolError where it cannot be formed by rule and has no table.
    """
    from ib_async import Contract

    symbol = Symbol.parse(text)
    table = settings.contracts.get(text) or _by_rule(symbol, settings)
    names = {
        "sec_type": "secType",
        "con_id": "conId",
        "primary_exchange": "primaryExchange",
        "expiry": "lastTradeDateOrContractMonth",
        "local_symbol": "localSymbol",
        "trading_class": "tradingClass",
    }
    fields = {names.get(name, name): value for name, value in asdict(table).items() if value}
    if not table.con_id and not table.local_symbol:
        fields.setdefault("symbol", symbol.base)
    fields.setdefault("currency", symbol.quote)
    if symbol.expiry and not table.con_id:
        fields.setdefault("lastTradeDateOrContractMonth", f"20{symbol.expiry}")
    return Contract(**fields)


def chosen(text: str, asked: Contract, found: Sequence[ContractDetails]) -> ContractDetails:
    """Return the one contract that was meant.

    Raises SymbolError where there is none, or more than one.
    """
    fits = [
        one for one in found
        if one.contract and (not asked.secType or one.contract.secType == asked.secType)
    ]  # fmt: skip
    if len(fits) != 1:
        names = [
            f"{c.localSymbol or c.symbol} {c.secType} {c.primaryExchange or c.exchange} {c.currency}"
            f" {c.lastTradeDateOrContractMonth}".rstrip()
            for one in fits[:5]
            if (c := one.contract)
        ]
        hint = f": {'; '.join(names)}" if names else ""
        raise SymbolError(
            f"one contract was expected for {text}, and {len(fits)} were found{hint}."
            f' Say which in the stack: [venue.ib] contracts."{text}" = {{ sec_type = …, exchange = … }}'
        )
    if fits[0].contract and asked.exchange:
        fits[0].contract.exchange = asked.exchange  # SMART stays SMART
    return fits[0]


def instrument(text: str, details: ContractDetails) -> Instrument:
    """Return what the venue lists under *text*."""
    symbol, found = Symbol.parse(text), details.contract
    # ib_async has made floats of these; their shortest text is what the gateway wrote.
    return Instrument(
        text, str(found.conId) if found else "", symbol.kind, symbol.base, symbol.quote,
        symbol.settle, Decimal(repr(details.minTick)), Decimal(repr(details.sizeIncrement)),
    )  # fmt: skip
