"""The ccxt object of one exchange: found by name, set up, and made to keep every digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import ccxt  # type: ignore[import-untyped]
import ccxt.pro  # type: ignore[import-untyped]
from attrs import frozen
from tapeloom.errors import ConfigError, Mistake, nearest
from tapeloom.plugin import channel_parts
from tapeloom.symbols import Instrument

if TYPE_CHECKING:
    from .settings import ExchangeSettings

__all__ = [
    "KINDS",
    "Kind",
    "Maker",
    "exact",
    "instruments",
    "keep_digits",
    "survive_frames",
    "text",
]


@frozen
class Kind:
    """A kind of channel, as ccxt knows it: the flags in `has`, and the calls."""

    has: str
    watch: str
    un_has: str
    un_watch: str


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


class Maker:
    """Makes ccxt objects of the exchange *name*, each with sockets and caches of its own."""

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
        """The channel words that the exchange has. What ccxt emulates it does not have."""
        return frozenset(word for word, kind in KINDS.items() if self.has.get(kind.has) is True)

    def check(self, channels: Sequence[str]) -> None:
        """Check the parameters of *channels*; whether it has the words themselves, core checks.

        Raises ConfigError.
        """
        mistakes = []
        for channel in channels:
            word, parameter = channel_parts(channel)
            problem = ""
            if word == "klines" and parameter not in self._timeframes:
                known = ", ".join(self._timeframes)
                problem = f"{self.name} has no {channel!r}; it has klines of {known}"
            elif word == "book" and parameter and (not parameter.isdecimal() or int(parameter) < 1):
                problem = f"{channel!r}: the depth of a book is a whole number from 1 on"
            elif word in KINDS and word not in {"klines", "book"} and parameter:
                problem = f"{channel!r}: {word!r} takes no parameter here"
            if problem and word in self.channels:
                mistakes.append(Mistake("channels", problem))
        if mistakes:
            raise ConfigError(mistakes)

    def __call__(self, told: Callable[[Any, Exception], None] | None = None) -> Any:
        """Make one. *told* is called with each frame on which it fails, and the error."""
        table = self._settings
        config: dict[str, Any] = {
            "enableRateLimit": True,
            "newUpdates": True,
            "options": {"tradesLimit": table.trades_limit, **_plain(table.options)},
            **{name: secret.reveal() for name, secret in table.secrets().items()},
        }
        if table.hostname:
            config["hostname"] = table.hostname
        if table.proxy:
            config |= {"httpsProxy": table.proxy, "wssProxy": table.proxy}
        made = getattr(ccxt.pro, self.name)(config)
        try:
            if table.sandbox:
                made.set_sandbox_mode(True)
            if table.demo:
                made.enable_demo_trading(True)
        except ccxt.BaseError as error:
            place = f"venue.ccxt.exchanges.{self.name}"
            raise ConfigError([Mistake(place, f"{error}. Take sandbox or demo out.")]) from error
        made.urls = made.deep_extend(made.urls, _plain(table.urls))
        # A connection says something at least three times within its permitted silence.
        often = table.silence * 1000 / 3
        made.streaming = {**made.streaming, "keepAlive": min(_keep_alive(made), often)}
        keep_digits(made)
        if told is not None:
            survive_frames(made, told)
        return made

    def hide(self, text: str) -> str:
        """Return *text*, which ccxt wrote, on one line and without any secret."""
        for secret in self._settings.secrets().values():
            text = text.replace(secret.reveal(), "***")
        return " ".join(text.split())[:300]


def _keep_alive(made: Any) -> float:
    return float(made.streaming.get("keepAlive") or 5000)


def _no_exchange(name: str) -> str:
    if not name:
        return 'say which exchange is meant, as in market = "kraken"'
    if name in ccxt.exchanges:
        return f"ccxt knows {name!r} and cannot watch it: it has no streams there"
    known = ", ".join(ccxt.pro.exchanges)
    hint = nearest(name, ccxt.pro.exchanges) or f" It can watch: {known}"
    return f"ccxt can watch no exchange {name!r}.{hint}"


def _plain(value: Any) -> Any:
    """Return *value* with every mapping in it as a dict, as ccxt wants them."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value


# ------------------------------------------------------------------------------------------ numbers


def exact(value: Any) -> Decimal:
    """Return *value* in the digits in which it was written; a float in the fewest that name it.

    Raises ValueError where it is no finite number.
    """
    try:
        number = Decimal(value if type(value) is str else str(value))
    except InvalidOperation:
        raise ValueError(f"{value!r} is no number") from None
    if not number.is_finite():
        raise ValueError(f"{value!r} is no number")
    return number


def text(number: Any) -> str:
    """Return a price or size in its own digits, without an exponent."""
    written = str(number)
    return format(exact(written), "f") if "e" in written or "E" in written else written


def keep_digits(made: Any) -> None:
    """Let *made* read prices and sizes as Decimal wherever ccxt would make floats of them.

    All ways of reading must change together. ccxt takes some snapshots by one and their differences
    by another, and a level at Decimal("0.1") is another one than a level at the float 0.1; and it
    makes text of numbers again where it computes, of none but its own kinds.
    """
    plain = made.safe_string

    def number(where: Any, key: Any) -> Any:
        try:
            return exact(where[key])
        except (LookupError, TypeError, ValueError):
            return None

    def string(where: Any, key: Any) -> Any:
        found = plain(where, key)
        if found is None:
            try:
                value = where[key]
            except (LookupError, TypeError):
                return None
            return text(value) if type(value) is Decimal else None
        return found

    made.number = exact
    for name, read in (("safe_float", number), ("safe_string", string)):
        one, two, several = _ways(read)
        setattr(made, name, one)
        setattr(made, f"{name}_2", two)
        setattr(made, f"{name}_n", several)


def _ways(read: Callable[[Any, Any], Any]) -> tuple[Callable[..., Any], ...]:
    """Return the three forms in which ccxt has each of its reading functions."""

    def one(where: Any, key: Any, default: Any = None) -> Any:
        found = read(where, key)
        return default if found is None else found

    def two(where: Any, first: Any, second: Any, default: Any = None) -> Any:
        found = read(where, first)
        return one(where, second, default) if found is None else found

    def several(where: Any, keys: Sequence[Any], default: Any = None) -> Any:
        found = (read(where, key) for key in keys)
        return next((each for each in found if each is not None), default)

    return one, two, several


# ------------------------------------------------------------------------------------------- frames


def survive_frames(made: Any, told: Callable[[Any, Exception], None]) -> None:
    """Let *made* read on behind a frame on which it fails, and tell of it.

    ccxt would leave the socket open and never read from it again.
    """
    plain = made.client

    def client(url: str) -> Any:
        found = plain(url)
        if "handle_message" not in vars(found):
            handle = found.handle_message

            def careful(message: Any) -> None:
                try:
                    handle(message)
                except Exception as error:
                    told(getattr(message, "data", message), error)

            found.handle_message = careful
        return found

    made.client = client


# ------------------------------------------------------------------------------------------ listing


def instruments(made: Any) -> dict[str, Instrument]:
    """Return what the exchange lists, by our spelling: in capitals, and without options."""
    tick_size = made.precisionMode == ccxt.TICK_SIZE
    found: dict[str, Instrument] = {}
    for market in made.markets.values():
        kind = market.get("type")
        if kind not in {"spot", "swap", "future"}:
            continue
        steps = market.get("precision") or {} if tick_size else {}
        symbol = market["symbol"].upper()
        found[symbol] = Instrument(
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
    return found
