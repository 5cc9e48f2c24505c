"""The table ``[venue.alpaca]`` of a stack."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_, le
from tapeloom import Secret
from tapeloom.units import duration_ns

__all__ = ["PAGE", "Settings"]

#: Items per answer, over all symbols: the most that the venue allows.
PAGE = 10_000

#: The feeds of stocks.
_FEEDS = ("iex", "sip", "delayed_sip", "test", "boats", "overnight")


def _address(_: Settings, attribute: Attribute[str], value: str) -> None:
    if value and not value.startswith(("ws://", "wss://", "http://", "https://")):
        schemes = "ws://, wss://, http:// or https://"
        raise ValueError(f"{attribute.name} must start with {schemes}, but is {value!r}")


def _both_keys(settings: Settings, _: Attribute[Secret | None], secret: Secret | None) -> None:
    if (secret is None) != (settings.key_id is None):
        raise ValueError("key_id and secret_key belong together: set both, or neither")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.alpaca]`` of a stack. Durations are stored in nanoseconds."""

    mode: Literal["stream", "poll"] = field(default="stream", validator=in_(("stream", "poll")))
    key_id: Secret | None = None
    secret_key: Secret | None = field(default=None, validator=_both_keys)
    feed: Literal["iex", "sip", "delayed_sip", "test", "boats", "overnight"] = field(
        default="iex", validator=in_(_FEEDS)
    )
    sandbox: bool = False
    paper: bool = False  #: whether the keys are those of a paper account
    #: One URL for streams and REST, such as a simulator's.
    base_url: str = field(default="", validator=_address)
    ws_url: str = field(default="", validator=_address)
    rest_url: str = field(default="", validator=_address)
    trading_url: str = field(default="", validator=_address)
    #: Pause before the next dial if another session has the account's only connection.
    slot_pause: int = field(default=30_000_000_000, converter=duration_ns, validator=ge(0))
    quote_unit: int = field(default=1, validator=ge(1))  #: shares per unit of a quote's size
    #: Interval at which a book is requested anew; 0: never.
    book_resync: int = field(default=0, converter=duration_ns, validator=ge(0))
    rest_limit: int = field(default=200, validator=ge(2))  #: the plan's calls per minute
    poll_every: int = field(default=5_000_000_000, converter=duration_ns, validator=gt(0))
    poll_bars_every: int = field(default=15_000_000_000, converter=duration_ns, validator=gt(0))
    poll_page: int = field(default=PAGE, validator=[ge(1), le(PAGE)])  #: items per answer
    #: How far a poll stays behind the current time, because data may arrive late.
    poll_delay: int = field(default=2_000_000_000, converter=duration_ns, validator=ge(0))
    #: How far a poll goes back before the last one.
    poll_overlap: int = field(default=10_000_000_000, converter=duration_ns, validator=ge(0))

    @property
    def keys(self) -> tuple[str, str] | None:
        """The keys in plain text, for messages and headers only; None if there are none."""
        if self.key_id is not None and self.secret_key is not None:
            return self.key_id.reveal(), self.secret_key.reveal()
        return ("SIMULATED", "simulated") if self.base_url else None

    @property
    def stream_host(self) -> str:
        """The URL of the streams' host."""
        sandbox = "sandbox." if self.sandbox else ""
        url = self.ws_url or self.base_url or f"wss://stream.data.{sandbox}alpaca.markets"
        return _with_scheme(url, "ws")

    @property
    def rest_host(self) -> str:
        """The URL of the host of past market data."""
        sandbox = "sandbox." if self.sandbox else ""
        return _with_scheme(
            self.rest_url or self.base_url or f"https://data.{sandbox}alpaca.markets", "http"
        )

    @property
    def trading_host(self) -> str:
        """The URL of the host that lists the assets; empty for the sandbox, unless it is set."""
        default = (
            "" if self.sandbox else f"https://{'paper-' if self.paper else ''}api.alpaca.markets"
        )
        return _with_scheme(self.trading_url or self.base_url or default, "http")


def _with_scheme(url: str, scheme: str) -> str:
    """Return *url* with the scheme ``ws`` or ``http``, with TLS if *url* has it."""
    before, separator, rest = url.partition("://")
    tls = "s" if before.endswith("s") else ""
    return f"{scheme}{tls}://{rest.rstrip('/')}" if separator else ""
