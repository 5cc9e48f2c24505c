"""The table ``[venue.hyperliquid]`` of a stack."""

from __future__ import annotations

from attrs import Attribute, field, frozen
from attrs.validators import ge
from tapeloom.units import duration_ns

__all__ = ["Settings"]


def _address(_: Settings, attribute: Attribute[str], value: str) -> None:
    if value and not value.startswith(("ws://", "wss://", "http://", "https://")):
        schemes = "ws://, wss://, http:// or https://"
        raise ValueError(f"{attribute.name} must start with {schemes}, but is {value!r}")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.hyperliquid]`` of a stack."""

    testnet: bool = False
    #: One URL for streams and REST, such as a simulator's.
    base_url: str = field(default="", validator=_address)
    ws_url: str = field(default="", validator=_address)
    rest_url: str = field(default="", validator=_address)
    #: How far the venue's time must be past the end of a bar without a successor to close it, in ns.
    bar_grace: int = field(default=5_000_000_000, converter=duration_ns)
    #: Whether skipped bars are requested over REST. The venue may send none for intervals without
    #: a trade, and then the requests are useless.
    fill_bars: bool = False
    #: Least number of trades per symbol that are remembered, to recognise repeated ones.
    remembered_trades: int = field(default=2_000, validator=ge(100))
