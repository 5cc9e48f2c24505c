"""Bybit spot and linear perpetual market data for tapeloom: API v5, without a key.

The hooks stand here. `names` has the venue's facts and words, `wire` its frames, `codec` its
subscription language, `history` its REST interface. The package `simulator` is its server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import deep_iterable, in_
from tapeloom.hooks import hookimpl

from .codec import BybitCodec
from .history import BybitHistory
from .names import DEPTHS, Names, names_of
from .wire import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Codec, Endpoint, Feed, History, Parse

__all__ = ["Settings"]


def _place(_: object, attribute: Attribute[str], value: str) -> None:
    if value and value.partition("://")[0] not in ("ws", "wss", "http", "https"):
        raise ValueError(
            f"{attribute.name} = {value!r}: expected an address with its scheme,"
            " as in 'wss://stream.example.com'"
        )


def _alone(settings: Settings, _: object, demo: bool) -> None:
    if demo and settings.testnet:
        raise ValueError("demo and testnet exclude each other: leave one of them out")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.bybit]`` of a stack."""

    testnet: bool = False
    demo: bool = field(default=False, validator=_alone)
    base_url: str = field(default="", validator=_place)  #: one address for all: a simulator
    ws_url: str = field(default="", validator=_place)
    rest_url: str = field(default="", validator=_place)
    book_depth: Literal[50, 200, 1000] = field(default=1000, validator=in_(DEPTHS[1:]))
    unchecked: tuple[int, ...] = field(  #: depths whose update ids may jump
        default=(), converter=tuple, validator=deep_iterable(in_(DEPTHS[1:]))
    )
    resync: Literal["subscribe", "rest"] = field(
        default="subscribe", validator=in_(("subscribe", "rest"))
    )
    block_trades: bool = True  #: trades that were agreed on outside of the book are trades too


def _names(feed: Feed) -> Names:
    return names_of(feed, feed.settings or Settings())


@hookimpl
def settings() -> type[Any]:
    """Return the class of ``[venue.bybit]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint]:
    """Return the public stream of the feed's market."""
    return [_names(feed).endpoint()]


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the subscription language."""
    return BybitCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the REST language."""
    return BybitHistory(feed, _names(feed))
