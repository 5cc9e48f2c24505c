"""The table ``[venue.binance]`` of a stack."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, in_
from tapeloom import Secret

__all__ = ["Settings"]


def _check_address(_: Settings, attribute: Attribute[str], value: str) -> None:
    if value and not value.startswith(("ws://", "wss://", "http://", "https://")):
        schemes = "ws://, wss://, http:// or https://"
        raise ValueError(f"{attribute.name} must begin with {schemes}, but is {value!r}")


def _check_environment(settings: Settings, _: Attribute[bool], demo: bool) -> None:
    if demo and settings.testnet:
        raise ValueError("testnet and demo are two environments: set only one of them")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.binance]`` of a stack."""

    testnet: bool = False
    demo: bool = field(default=False, validator=_check_environment)
    base_url: str = field(default="", validator=_check_address)  #: for all, e.g. a simulator
    ws_url: str = field(default="", validator=_check_address)  #: for the streams
    rest_url: str = field(default="", validator=_check_address)  #: for REST
    api_key: Secret | None = None  #: needed only for historical raw trades of futures
    futures_trades: Literal["aggregate", "raw"] = field(
        default="aggregate", validator=in_(("aggregate", "raw"))
    )
    depth_speed: str = "100ms"  #: the update interval of books
    snapshot_limit: int = field(default=1000, validator=ge(1))  #: levels a side
    microseconds: bool = False  #: request times in microseconds; spot only
