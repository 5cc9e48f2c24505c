"""The table ``[venue.bybit]`` of a stack."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen
from attrs.validators import deep_iterable, in_

__all__ = ["DEPTHS", "Settings"]

#: Levels a side of the books that the venue streams, the same in both markets. The first comes as
#: snapshots alone.
DEPTHS = (1, 50, 200, 1000)


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
