"""The table ``[venue.hyperliquid]`` of a stack."""

from __future__ import annotations

from attrs import Attribute, field, frozen
from attrs.validators import ge
from tapeloom.units import duration_ns

__all__ = ["Settings"]


def _address(_: Settings, attribute: Attribute[str], value: str) -> None:
    if value and not value.startswith(("ws://", "wss://", "http://", "https://")):
        schemes = "ws://, wss://, http:// or https://"
        raise ValueError(f"{attribute.name} must begin with {schemes}, and is {value!r}")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.hyperliquid]`` of a stack."""

    testnet: bool = False
    base_url: str = field(default="", validator=_address)  #: one address for all: a simulator
    ws_url: str = field(default="", validator=_address)
    rest_url: str = field(default="", validator=_address)
    #: How long after its end, in the venue's time, a candle without a successor counts as closed.
    bar_grace: int = field(default=5_000_000_000, converter=duration_ns)
    #: Whether candles that were skipped are asked for, though the venue may send none without a trade.
    fill_bars: bool = False
    #: How many trades of a symbol are remembered, at least, to know one that is sent again.
    remembered_trades: int = field(default=2_000, validator=ge(100))
