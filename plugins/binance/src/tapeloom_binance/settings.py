"""The table ``[venue.binance]`` of a stack."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, in_
from tapeloom import Secret

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
