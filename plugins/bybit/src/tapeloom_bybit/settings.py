"""The table ``[venue.bybit]`` of a stack."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen
from attrs.validators import deep_iterable, in_

__all__ = ["DEPTHS", "Settings"]

#: The depths (levels a side) of the books that the venue streams, the same in both markets. At depth
#: 1 every push is a snapshot.
DEPTHS = (1, 50, 200, 1000)


def _check_address(_: object, attribute: Attribute[str], value: str) -> None:
    if value and value.partition("://")[0] not in ("ws", "wss", "http", "https"):
        raise ValueError(
            f"{attribute.name} = {value!r}: expected an address with its scheme,"
            " as in 'wss://stream.example.com'"
        )


def _check_environment(settings: Settings, _: object, demo: bool) -> None:
    if demo and settings.testnet:
        raise ValueError("demo and testnet exclude each other: set only one of them")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.bybit]`` of a stack."""

    testnet: bool = False
    demo: bool = field(default=False, validator=_check_environment)
    base_url: str = field(default="", validator=_check_address)  #: for all, e.g. a simulator
    ws_url: str = field(default="", validator=_check_address)  #: for the streams
    rest_url: str = field(default="", validator=_check_address)  #: for REST
    #: Levels a side of the channel `book`.
    book_depth: Literal[50, 200, 1000] = field(default=1000, validator=in_(DEPTHS[1:]))
    #: Depths at which a jump of the update id is no gap.
    unchecked: tuple[int, ...] = field(
        default=(), converter=tuple, validator=deep_iterable(in_(DEPTHS[1:]))
    )
    #: How to get a new snapshot after a gap.
    resync: Literal["subscribe", "rest"] = field(
        default="subscribe", validator=in_(("subscribe", "rest"))
    )
    block_trades: bool = True  #: deliver block trades as trades; false: as rejects
