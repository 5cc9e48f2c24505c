"""The table ``[venue.ib]`` of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_
from tapeloom.units import duration_ns

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["ContractTable", "Settings"]


#: Nanoseconds in a second.
_S = 1_000_000_000
#: The market data types of the TWS API.
_DATA = ("live", "frozen", "delayed", "delayed-frozen")
#: The default port by `gateway` and `paper`.
_PORTS = {(False, False): 7496, (False, True): 7497, (True, False): 4001, (True, True): 4002}


def _seconds(text: str | int) -> float:
    return duration_ns(text) / _S


def _fields(_: Settings, __: Attribute[Any], contracts: Mapping[str, ContractTable]) -> None:
    for symbol, table in contracts.items():
        if "/" not in symbol:
            raise ValueError(
                f"contracts are named by unified symbols such as 'ES/USD', not {symbol!r}"
            )
        if not table.sec_type and not table.con_id:
            raise ValueError(f"the contract of {symbol!r} needs sec_type or con_id")


@frozen(kw_only=True)
class ContractTable:
    """The fields of a contract: a table such as ``contracts."ES/USD"`` in ``[venue.ib]``.

    The defaults of `symbol` and `currency` are base and quote of the unified symbol.
    """

    sec_type: str = ""  #: STK, CASH, CRYPTO, FUT, CONTFUT, IND, CFD, CMDTY, …
    con_id: int = 0
    symbol: str = ""
    exchange: str = ""
    primary_exchange: str = ""
    currency: str = ""
    expiry: str = ""  #: YYYYMM or YYYYMMDD
    multiplier: str = ""
    local_symbol: str = ""
    trading_class: str = ""


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.ib]`` of a stack. Durations are stored in seconds."""

    host: str = "127.0.0.1"
    port: int | None = None  #: None: the default port of `gateway` and `paper`
    gateway: bool = False  #: whether the program is IB Gateway, not TWS
    paper: bool = False  #: whether the account is a paper account
    client_id: int = field(default=1, validator=ge(1))
    market_data: Literal["live", "frozen", "delayed", "delayed-frozen"] = field(
        default="live", validator=in_(_DATA)
    )
    trades: Literal["AllLast", "Last"] = field(
        default="AllLast", validator=in_(("AllLast", "Last"))
    )
    quotes: Literal["tick", "top"] = field(default="tick", validator=in_(("tick", "top")))
    bars: Literal["", "TRADES", "MIDPOINT", "BID", "ASK"] = field(
        default="", validator=in_(("", "TRADES", "MIDPOINT", "BID", "ASK"))
    )  #: what bars show; empty: trades, or the midpoint for currencies
    regular_hours: bool = False  #: whether bars are of regular trading hours only
    smart_depth: bool = True  #: whether depth is of all exchanges if the contract is SMART
    depth_rows: Literal["shift", "slot"] = field(default="shift", validator=in_(("shift", "slot")))
    lines: int = field(default=100, validator=ge(1))  #: number of market data lines of the account
    crypto_exchange: str = "PAXOS"
    contracts: dict[str, ContractTable] = field(factory=dict, validator=_fields)
    connect_within: float = field(default=10 * _S, converter=_seconds, validator=gt(0))
    farm_within: float = field(default=5 * _S, converter=_seconds, validator=ge(0))
    answer_within: float = field(default=10 * _S, converter=_seconds, validator=gt(0))
    probe_every: float = field(default=25 * _S, converter=_seconds, validator=gt(0))
    data_within: float = field(default=60 * _S, converter=_seconds, validator=gt(0))
    retry_every: float = field(default=60 * _S, converter=_seconds, validator=gt(0))
    repeat_after: float = field(default=15 * _S, converter=_seconds, validator=ge(0))
    busy_wait: float = field(default=10 * _S, converter=_seconds, validator=ge(0))

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the gateway."""
        return self.host, self.port or _PORTS[self.gateway, self.paper]
