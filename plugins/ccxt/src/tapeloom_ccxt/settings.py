"""The table ``[venue.ccxt]`` of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Attribute, Factory, field, frozen
from attrs.validators import ge, gt, optional
from tapeloom import Secret

__all__ = ["ExchangeSettings", "Settings"]


def _one_environment(settings: ExchangeSettings, _: Attribute[bool], demo: bool) -> None:
    if demo and settings.sandbox:
        raise ValueError("sandbox and demo are different environments: set only one of them")


@frozen(kw_only=True)
class ExchangeSettings:
    """The table ``[venue.ccxt.exchanges.NAME]`` of a stack: the settings of one exchange.

    `urls` and `options` are merged into ccxt's dicts of these names; `params` are the parameters of
    the watch calls, by the channel's name. Durations are seconds.
    """

    api_key: Secret | None = None
    secret: Secret | None = None
    password: Secret | None = None
    uid: Secret | None = None
    token: Secret | None = None
    sandbox: bool = False
    demo: bool = field(default=False, validator=_one_environment)
    hostname: str = ""
    proxy: str = ""
    urls: Mapping[str, Any] = Factory(dict)
    options: Mapping[str, Any] = Factory(dict)
    params: Mapping[str, Mapping[str, Any]] = Factory(dict)
    book_limit: int | None = field(default=None, validator=optional(ge(1)))
    trades_limit: int = field(default=10_000, validator=ge(1))
    numbered_trades: bool = False
    snapshot_every: float = field(default=60.0, validator=gt(0))
    silence: float = field(default=45.0, validator=gt(0))
    stall: float = field(default=120.0, validator=gt(0))

    def secrets(self) -> dict[str, Secret]:
        """Return the credentials that are set, by ccxt's names."""
        secrets = {
            "apiKey": self.api_key,
            "secret": self.secret,
            "password": self.password,
            "uid": self.uid,
            "token": self.token,
        }
        return {name: secret for name, secret in secrets.items() if secret is not None}


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.ccxt]`` of a stack."""

    exchanges: Mapping[str, ExchangeSettings] = Factory(dict)
