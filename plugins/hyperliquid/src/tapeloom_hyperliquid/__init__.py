"""Hyperliquid market data for tapeloom: perpetuals, those of builders too, and spot.

The hooks stand here. `symbols` has the venue's facts and names, `wire` its frames, `codec` its
subscription language, `history` its REST interface. The package `simulator` is its server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Attribute, field, frozen
from attrs.validators import ge
from tapeloom.hooks import hookimpl
from tapeloom.units import duration_ns

from .codec import HyperliquidCodec
from .history import HyperliquidHistory
from .symbols import Names, names_of
from .wire import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Codec, Endpoint, Feed, History, Parse

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
    candle_grace: int = field(default=5_000_000_000, converter=duration_ns)
    #: Whether candles that were skipped are asked for, though the venue may send none without a trade.
    candle_fill: bool = False
    #: How many trades of a symbol are remembered, at least, to know one that is sent again.
    remember: int = field(default=2_000, validator=ge(100))


def _names(feed: Feed) -> Names:
    return names_of(feed, feed.settings or Settings())


@hookimpl
def settings() -> type[Any]:
    """Return the class of ``[venue.hyperliquid]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint]:
    """Return the one endpoint that serves all."""
    return [_names(feed).endpoint()]


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the subscription language."""
    return HyperliquidCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the REST language."""
    return HyperliquidHistory(feed, _names(feed))
