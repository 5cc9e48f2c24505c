"""Conversion of unified symbols to Interactive Brokers' contracts.

The venue has no list of all symbols. Contracts of stocks, currency pairs and common coins follow from
rules; any other contract is described in the stack. (TWS API, "Contracts".)
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

#: The currencies traded at IDEALPRO; a symbol of two of these is a currency pair.
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
#: Bases that are coins, not stocks. Other coins need a table in the stack.
COINS = frozenset(["BTC", "ETH", "LTC", "BCH", "SOL", "ADA", "XRP", "DOGE", "AVAX", "LINK"])


def _by_rule(symbol: Symbol, settings: Settings) -> ContractTable:
    """Return the contract fields that follow from a symbol.

    Raises SymbolError for derivatives, whose contracts do not.
    """
    if symbol.settle:
        raise SymbolError(
            f"Interactive Brokers needs more than the name of {symbol}. Describe it in the stack:"
            f' [venue.ib] contracts."{symbol}" = {{ sec_type = "FUT", exchange = "CME" }}'
        )
    if symbol.base in CURRENCIES and symbol.quote in CURRENCIES:
        return ContractTable(sec_type="CASH", exchange="IDEALPRO")
    if symbol.base in COINS:
        return ContractTable(sec_type="CRYPTO", exchange=settings.crypto_exchange)
    # The venue writes class shares with a space (BRK B), unified symbols with a dot (BRK.B).
    return ContractTable(sec_type="STK", exchange="SMART", symbol=symbol.base.replace(".", " "))


def contract(text: str, settings: Settings) -> Contract:
    """Return the contract of the unified symbol *text*.

    Raises SymbolError if it does not follow from rules and has no table in the stack.
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


def chosen(text: str, requested: Contract, details: Sequence[ContractDetails]) -> ContractDetails:
    """Return the details that match the requested contract.

    Raises SymbolError if there is none, or more than one.
    """
    matches = [
        detail
        for detail in details
        if (c := detail.contract) and requested.secType in ("", c.secType)
    ]
    if len(matches) != 1:
        names = [
            f"{c.localSymbol or c.symbol} {c.secType} {c.primaryExchange or c.exchange} {c.currency}"
            f" {c.lastTradeDateOrContractMonth}".rstrip()
            for match in matches[:5]
            if (c := match.contract)
        ]
        hint = f": {'; '.join(names)}" if names else ""
        raise SymbolError(
            f"one contract was expected for {text}, and {len(matches)} were found{hint}. Describe it"
            f' in the stack: [venue.ib] contracts."{text}" = {{ sec_type = …, exchange = … }}'
        )
    if matches[0].contract and requested.exchange:
        matches[0].contract.exchange = requested.exchange  # keep the routing SMART
    return matches[0]


def instrument(text: str, details: ContractDetails) -> Instrument:
    """Return the instrument of the unified symbol *text*."""
    symbol, listed = Symbol.parse(text), details.contract
    # ib_async converts these to floats; their shortest text is what the gateway sent.
    return Instrument(
        text, str(listed.conId) if listed else "", symbol.kind, symbol.base, symbol.quote,
        symbol.settle, Decimal(repr(details.minTick)), Decimal(repr(details.sizeIncrement)),
    )  # fmt: skip
