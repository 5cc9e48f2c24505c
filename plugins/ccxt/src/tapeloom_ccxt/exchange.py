"""The ccxt object of an exchange: created by name, configured, and patched to keep all digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import ccxt  # type: ignore[import-untyped]
import ccxt.pro  # type: ignore[import-untyped]
from attrs import frozen
from tapeloom.errors import ConfigError, Mistake, nearest
from tapeloom.plugin import channel_parts
from tapeloom.plugin.bounds import number
from tapeloom.symbols import Instrument

if TYPE_CHECKING:
    from .settings import ExchangeSettings

__all__ = [
    "KINDS",
    "ExchangeFactory",
    "Kind",
    "decimal_text",
    "instruments",
    "keep_digits",
    "keep_reading",
    "to_decimal",
]


@frozen
class Kind:
    """A kind of channel: ccxt's flags in `has`, and the names of its calls."""

    has: str
    watch: str
    un_has: str
    un_watch: str


#: The kinds by the name of the channel.
KINDS = {
    "trades": Kind("watchTrades", "watch_trades", "unWatchTrades", "un_watch_trades"),
    "book": Kind(
        "watchOrderBook", "watch_order_book", "unWatchOrderBook", "un_watch_order_book"
    ),
    "klines": Kind("watchOHLCV", "watch_ohlcv", "unWatchOHLCV", "un_watch_ohlcv"),
    "ticker": Kind("watchTicker", "watch_ticker", "unWatchTicker", "un_watch_ticker"),
    "quotes": Kind(
        "watchBidsAsks", "watch_bids_asks", "unWatchBidsAsks", "un_watch_bids_asks"
    ),
}  # fmt: skip


class ExchangeFactory:
    """Creates ccxt objects of the exchange *name*, each with its own sockets and caches."""

    def __init__(self, name: str, settings: ExchangeSettings) -> None:
        if name not in ccxt.pro.exchanges:
            raise ConfigError([Mistake("market", _no_exchange(name))])
        self.name = name
        self._settings = settings
        probe = self()
        self.has: Mapping[str, Any] = probe.has
        self._timeframes: Mapping[str, Any] = probe.timeframes or {}

    @property
    def channels(self) -> frozenset[str]:
        """The names of the exchange's channels, without those that ccxt only emulates."""
        return frozenset(name for name, kind in KINDS.items() if self.has.get(kind.has) is True)

    def check(self, channels: Sequence[str]) -> None:
        """Check the parameters of *channels*. Core checks that the channels exist.

        Raises ConfigError.
        """
        mistakes = []
        for channel in channels:
            name, parameter = channel_parts(channel)
            problem = ""
            if name == "klines" and parameter not in self._timeframes:
                known = ", ".join(self._timeframes)
                problem = f"{self.name} has no {channel!r}; it has klines of {known}"
            elif name == "book" and parameter and (not parameter.isdecimal() or int(parameter) < 1):
                problem = f"{channel!r}: the depth of a book is a whole number from 1 on"
            elif name in KINDS and name not in {"klines", "book"} and parameter:
                problem = f"{channel!r}: {name!r} takes no parameter here"
            if problem and name in self.channels:
                mistakes.append(Mistake("channels", problem))
        if mistakes:
            raise ConfigError(mistakes)

    def __call__(self, on_error: Callable[[Any, Exception], None] | None = None) -> Any:
        """Create a ccxt object. *on_error* is called with each frame that ccxt fails on, and the error."""
        table = self._settings
        config: dict[str, Any] = {
            "enableRateLimit": True,
            "newUpdates": True,
            "options": {"tradesLimit": table.trades_limit, **_to_dicts(table.options)},
            **{name: secret.reveal() for name, secret in table.secrets().items()},
        }
        if table.hostname:
            config["hostname"] = table.hostname
        if table.proxy:
            config |= {"httpsProxy": table.proxy, "wssProxy": table.proxy}
        exchange = getattr(ccxt.pro, self.name)(config)
        try:
            if table.sandbox:
                exchange.set_sandbox_mode(True)
            if table.demo:
                exchange.enable_demo_trading(True)
        except ccxt.BaseError as error:
            setting = f"venue.ccxt.exchanges.{self.name}"
            text = f"{error}. Remove sandbox or demo."
            raise ConfigError([Mistake(setting, text)]) from error
        exchange.urls = exchange.deep_extend(exchange.urls, _to_dicts(table.urls))
        # Ping so often that a connection receives at least three pongs within the silence timeout.
        ping_ms = table.silence * 1000 / 3
        exchange.streaming = {
            **exchange.streaming,
            "keepAlive": min(_keep_alive_ms(exchange), ping_ms),
        }
        keep_digits(exchange)
        if on_error is not None:
            keep_reading(exchange, on_error)
        return exchange

    def hide(self, decimal_text: str) -> str:
        """Return a text of ccxt on one line and without secrets."""
        for secret in self._settings.secrets().values():
            decimal_text = decimal_text.replace(secret.reveal(), "***")
        return " ".join(decimal_text.split())[:300]


def _keep_alive_ms(exchange: Any) -> float:
    return float(exchange.streaming.get("keepAlive") or 5000)


def _no_exchange(name: str) -> str:
    """Return why there is no exchange *name*."""
    if not name:
        return 'the feed has to name an exchange, as in market = "kraken"'
    if name in ccxt.exchanges:
        return f"ccxt has {name!r} without streams, so it cannot be watched"
    known = ", ".join(ccxt.pro.exchanges)
    hint = nearest(name, ccxt.pro.exchanges) or f" It can watch: {known}"
    return f"ccxt can watch no exchange {name!r}.{hint}"


def _to_dicts(value: Any) -> Any:
    """Return *value* with every mapping in it converted to a dict, which ccxt requires."""
    if isinstance(value, Mapping):
        return {key: _to_dicts(item) for key, item in value.items()}
    return value


# ------------------------------------------------------------------------------------------ numbers


def to_decimal(value: Any) -> Decimal:
    """Return *value* as a Decimal with all its digits; of a float, the shortest that identify it.

    Raises ValueError if it is not a finite number within the bounds of `tapeloom.plugin.bounds`.
    """
    text = value if type(value) is str else str(value)
    try:
        read = number(text.strip())
    except ArithmeticError:
        raise ValueError(f"{text[:80]!r} is not a number, or it is too long") from None
    if not read.is_finite():
        raise ValueError(f"{text[:80]!r} is not a finite number")
    return read


def decimal_text(number: Any) -> str:
    """Return a price or size as text with all its digits and without an exponent.

    Raises ValueError if it is not a finite number.
    """
    written = str(number)
    is_plain = type(number) is Decimal and number.is_finite() and "E" not in written
    return written if is_plain else format(to_decimal(written), "f")


def keep_digits(exchange: Any) -> None:
    """Make *exchange* read prices and sizes as Decimal where ccxt would make floats of them.

    All of ccxt's reading functions must be replaced together. ccxt reads some snapshots with one and
    their deltas with another, and a level at Decimal("0.1") is not the level at the float 0.1. Also,
    ccxt converts numbers to text before it computes, but only numbers of its own types.
    """
    safe_string = exchange.safe_string

    def read_number(container: Any, key: Any) -> Any:
        try:
            return to_decimal(container[key])
        except (LookupError, TypeError, ValueError):
            return None

    def read_string(container: Any, key: Any) -> Any:
        found = safe_string(container, key)
        if found is None:
            try:
                value = container[key]
            except (LookupError, TypeError):
                return None
            return decimal_text(value) if type(value) is Decimal else None
        return found

    exchange.number = to_decimal
    for name, read in (("safe_float", read_number), ("safe_string", read_string)):
        read_key, read_either, read_first = _variants(read)
        setattr(exchange, name, read_key)
        setattr(exchange, f"{name}_2", read_either)
        setattr(exchange, f"{name}_n", read_first)


def _variants(read: Callable[[Any, Any], Any]) -> tuple[Callable[..., Any], ...]:
    """Return the three variants that ccxt has of each reading function: for 1, 2 and n keys."""

    def read_key(container: Any, key: Any, default: Any = None) -> Any:
        found = read(container, key)
        return default if found is None else found

    def read_either(container: Any, first: Any, second: Any, default: Any = None) -> Any:
        found = read(container, first)
        return read_key(container, second, default) if found is None else found

    def read_first(container: Any, keys: Sequence[Any], default: Any = None) -> Any:
        values = (read(container, key) for key in keys)
        return next((value for value in values if value is not None), default)

    return read_key, read_either, read_first


# ------------------------------------------------------------------------------------------- frames


def keep_reading(exchange: Any, on_error: Callable[[Any, Exception], None]) -> None:
    """Make *exchange* call *on_error* with a frame on which it fails, and read on.

    Without that, ccxt leaves the socket open and never reads from it again.
    """
    make_client = exchange.client

    def client(url: str) -> Any:
        found = make_client(url)
        if "handle_message" not in vars(found):
            handle = found.handle_message

            def handle_or_report(message: Any) -> None:
                try:
                    handle(message)
                except Exception as error:
                    on_error(getattr(message, "data", message), error)

            found.handle_message = handle_or_report
        return found

    exchange.client = client


# ------------------------------------------------------------------------------------------ listing


def instruments(exchange: Any) -> list[Instrument]:
    """Return the instruments of the exchange, without options."""
    # In other modes, the precision is a number of digits.
    in_steps = exchange.precisionMode == ccxt.TICK_SIZE
    listed: list[Instrument] = []
    for market in exchange.markets.values():
        kind = market.get("type")
        if kind not in {"spot", "swap", "future"}:
            continue
        steps = market.get("precision") or {} if in_steps else {}
        symbol = market["symbol"].upper()
        listed.append(
            Instrument(
                symbol,
                str(market["id"]),
                kind,
                market["base"].upper(),
                market["quote"].upper(),
                (market.get("settle") or "").upper(),
                steps.get("price"),
                steps.get("amount"),
                market.get("active") is not False,
            )
        )
    return listed
