"""Binance market data for tapeloom: spot, USD-M and COIN-M futures.

The hooks stand here. `symbols` has the venue's facts and names, `wire` its frames, `codec` its
subscription language, `history` its REST interface, `simulator` its server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, in_
from tapeloom import Secret
from tapeloom.hooks import hookimpl

from .codec import BinanceCodec
from .history import BinanceHistory
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


def _one(settings: Settings, _: Attribute[bool], demo: bool) -> None:
    if demo and settings.testnet:
        raise ValueError("testnet and demo are two environments: set one of them")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.binance]`` of a stack."""

    testnet: bool = False
    demo: bool = field(default=False, validator=_one)
    base_url: str = field(default="", validator=_address)  #: one address for all: a simulator
    ws_url: str = field(default="", validator=_address)
    rest_url: str = field(default="", validator=_address)
    api_key: Secret | None = None  #: only for the past raw trades of futures
    futures_trades: Literal["aggregate", "raw"] = field(
        default="aggregate", validator=in_(("aggregate", "raw"))
    )
    depth_speed: str = "100ms"
    snapshot_limit: int = field(default=1000, validator=ge(1))  #: levels a side
    microseconds: bool = False  #: spot only


def _names(feed: Feed) -> Names:
    return names_of(feed, feed.settings or Settings())


@hookimpl
def settings() -> type[Any]:
    """Return the class of ``[venue.binance]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint]:
    """Return one endpoint for spot or COIN-M futures, two for USD-M futures."""
    return _names(feed).endpoints()


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the subscription language."""
    return BinanceCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the REST language."""
    return BinanceHistory(feed, _names(feed))
