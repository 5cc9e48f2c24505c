"""The table ``[venue.alpaca]`` of a stack."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_, le
from tapeloom import Secret
from tapeloom.units import duration_ns

__all__ = ["PAGE", "Settings"]

PAGE = 10_000  #: items in an answer, over all symbols; the venue allows no more

_FEEDS = ("iex", "sip", "delayed_sip", "test", "boats", "overnight")


def _address(_: Settings, attribute: Attribute[str], value: str) -> None:
    if value and not value.startswith(("ws://", "wss://", "http://", "https://")):
        schemes = "ws://, wss://, http:// or https://"
        raise ValueError(f"{attribute.name} must begin with {schemes}, and is {value!r}")


def _both(settings: Settings, _: Attribute[Secret | None], secret: Secret | None) -> None:
    if (secret is None) != (settings.key_id is None):
        raise ValueError("key_id and secret_key belong together: set both, or none")


@frozen(kw_only=True)
class Settings:
    """The table ``[venue.alpaca]`` of a stack. Durations are nanoseconds once read."""

    mode: Literal["stream", "poll"] = field(default="stream", validator=in_(("stream", "poll")))
    key_id: Secret | None = None
    secret_key: Secret | None = field(default=None, validator=_both)
    feed: Literal["iex", "sip", "delayed_sip", "test", "boats", "overnight"] = field(
        default="iex", validator=in_(_FEEDS)
    )
    sandbox: bool = False
    paper: bool = False  #: the keys are those of a paper account
    base_url: str = field(default="", validator=_address)  #: one address for all: a simulator
    ws_url: str = field(default="", validator=_address)
    rest_url: str = field(default="", validator=_address)
    trading_url: str = field(default="", validator=_address)
    slot_pause: int = field(default=30_000_000_000, converter=duration_ns, validator=ge(0))
    quote_unit: int = field(default=1, validator=ge(1))  #: shares in one unit of a quote's size
    book_resync: int = field(default=0, converter=duration_ns, validator=ge(0))  #: 0: never
    rest_limit: int = field(default=200, validator=ge(2))  #: the plan's calls a minute
    poll_every: int = field(default=5_000_000_000, converter=duration_ns, validator=gt(0))
    poll_bars_every: int = field(default=15_000_000_000, converter=duration_ns, validator=gt(0))
    poll_page: int = field(default=PAGE, validator=[ge(1), le(PAGE)])  #: items in one answer
    poll_delay: int = field(default=2_000_000_000, converter=duration_ns, validator=ge(0))
    poll_overlap: int = field(default=10_000_000_000, converter=duration_ns, validator=ge(0))

    @property
    def keys(self) -> tuple[str, str] | None:
        """The keys, to be put on the wire and nowhere else."""
        if self.key_id is not None and self.secret_key is not None:
            return self.key_id.reveal(), self.secret_key.reveal()
        return ("SIMULATED", "simulated") if self.base_url else None

    @property
    def stream_host(self) -> str:
        """Where the streams are."""
        sandbox = "sandbox." if self.sandbox else ""
        url = self.ws_url or self.base_url or f"wss://stream.data.{sandbox}alpaca.markets"
        return _swapped(url, "ws")

    @property
    def rest_host(self) -> str:
        """Where past market data is."""
        sandbox = "sandbox." if self.sandbox else ""
        return _swapped(
            self.rest_url or self.base_url or f"https://data.{sandbox}alpaca.markets", "http"
        )

    @property
    def trading_host(self) -> str:
        """Where the list of assets is; empty where that is not known."""
        usual = (
            "" if self.sandbox else f"https://{'paper-' if self.paper else ''}api.alpaca.markets"
        )
        return _swapped(self.trading_url or self.base_url or usual, "http")


def _swapped(url: str, scheme: str) -> str:
    """Return *url* as ``ws`` or ``http``, with an s where it has one."""
    before, found, rest = url.partition("://")
    return f"{scheme}{'s' if before.endswith('s') else ''}://{rest.rstrip('/')}" if found else ""
