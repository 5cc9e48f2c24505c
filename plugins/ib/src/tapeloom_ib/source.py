"""The source that core runs: one session after the other, and the state that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.errors import ConfigError, Mistake
from tapeloom.plugin import channel_parts

from .contracts import contract
from .pacing import Pacing
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tapeloom.events import Event
    from tapeloom.plugin import Feed

    from .settings import Settings

__all__ = ["IBSource"]

#: The names of the venue's channels, without parameters.
_CHANNELS = frozenset({"trades", "quotes", "book", "klines"})
#: The most rows of a market depth that the venue allows.
_MAX_ROWS = 60
#: Host, port and client id of this process' connections. No two connections may share a client id.
_CLIENT_IDS: set[tuple[str, int, int]] = set()


class IBSource:
    """Market data over TWS or IB Gateway. ib_async runs on asyncio only."""

    backends = frozenset({"asyncio"})
    resumes = False
    channels = _CHANNELS

    def __init__(self, feed: Feed, settings: Settings) -> None:
        self._feed, self._settings = feed, settings
        self._session: Session | None = None
        self._pacing = Pacing(settings.repeat_after)
        #: TWS sends no time with these.
        self.unidentified = frozenset({"book", "quotes"} if settings.quotes == "top" else {"book"})
        self._check()

    def _check(self) -> None:
        """Check the channels, the symbols and the limits of the account.

        Raises ConfigError or SymbolError.
        """
        mistakes = [
            Mistake(f"channels[{index}]", problem)
            for index, channel in enumerate(self._feed.channels)
            if (problem := _problem(channel))
        ]
        for symbol in self._feed.symbols:
            contract(symbol, self._settings)
        names = [channel_parts(channel)[0] for channel in self._feed.channels]
        count, settings = len(self._feed.symbols), self._settings
        ticks = count * ((settings.quotes == "tick" and "quotes" in names) + ("trades" in names))
        # An account has 5 tick-by-tick streams per hundred lines. It has 3 market depths up to 400
        # lines, and then one more per hundred.
        for name, needed, allowed in (
            ("tick-by-tick streams", ticks, 5 * max(1, -(-settings.lines // 100))),
            ("market depths", count * names.count("book"), max(3, -(-settings.lines // 100) - 1)),
            ("streams", count * len(names), settings.lines),
        ):
            if needed > allowed:
                text = (
                    f"the feed needs {needed} {name}, and an account with {settings.lines} market"
                    f" data lines has {allowed}. Use fewer symbols or channels, or set lines in"
                    " [venue.ib] to the number that the account has."
                )
                mistakes.append(Mistake("symbols", text))
        if mistakes:
            raise ConfigError(mistakes)

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Connect and deliver until the connection ends.

        Raises ConnectionFailed, ConnectionLost, Throttled (the client id is taken), or
        SubscriptionRefused if the venue refuses every subscription.
        """
        host, port = self._settings.address
        client_id = self._settings.client_id
        while (host, port, client_id) in _CLIENT_IDS:
            client_id += 1
        _CLIENT_IDS.add((host, port, client_id))
        self._session = Session(self._feed, self._settings, self._pacing, client_id)
        try:
            await self._session.run(deliver)
        finally:
            self._session = None
            _CLIENT_IDS.discard((host, port, client_id))

    def symbols_changed(self) -> None:
        """Make the session subscribe to new symbols and cancel removed ones."""
        if self._session is not None:
            self._session.subscriptions.changed.set()


def _problem(channel: str) -> str:
    """Return what is wrong with a channel; empty if nothing is."""
    name, parameter = channel_parts(channel)
    if name not in _CHANNELS:
        known = ", ".join(sorted(_CHANNELS))
        return f"Interactive Brokers has no channel {channel!r}; it has {known}."
    if name == "klines" and parameter != "5s":
        return (
            f"the venue has bars of 5 seconds only: use 'klines:5s' instead of {channel!r}, and"
            " build longer bars with a stage."
        )
    if name == "book" and not (parameter.isdigit() and 1 <= int(parameter) <= _MAX_ROWS):
        return (
            f"a book needs its number of rows, 1 to {_MAX_ROWS}, as in 'book:5', not {channel!r}."
        )
    if parameter and name in ("trades", "quotes"):
        return f"{name!r} takes no parameter: {channel!r}"
    return ""
