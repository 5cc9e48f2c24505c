"""What core runs: one session after the other, and what outlives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.errors import ConfigError, Mistake
from tapeloom.plugin import channel_parts

from .contracts import contract
from .pace import Pace
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tapeloom.events import Event
    from tapeloom.plugin import Feed

    from .settings import Settings

__all__ = ["IBSource"]

_WORDS = frozenset({"trades", "quotes", "book", "klines"})
_MOST_ROWS = 60
#: The client ids of this process: each connection to one program needs its own.
_TAKEN: set[tuple[str, int, int]] = set()


class IBSource:
    """Market data over TWS or IB Gateway. Its library runs on asyncio only."""

    backends = frozenset({"asyncio"})
    resumes = False
    channels = _WORDS

    def __init__(self, feed: Feed, settings: Settings) -> None:
        self._feed, self._settings = feed, settings
        self._session: Session | None = None
        self._pace = Pace(settings.repeat_after)
        self._check()

    def _check(self) -> None:
        """See that the channels exist, the symbols can be named and the account allows as many."""
        mistakes = [
            Mistake(f"channels[{place}]", problem)
            for place, channel in enumerate(self._feed.channels)
            if (problem := _problem(channel))
        ]
        for symbol in self._feed.symbols:
            contract(symbol, self._settings)
        words = [channel_parts(channel)[0] for channel in self._feed.channels]
        count, settings = len(self._feed.symbols), self._settings
        ticks = count * ((settings.quotes == "tick" and "quotes" in words) + ("trades" in words))
        # 5 tick-by-tick streams for each hundred lines; 3 depths up to 400 lines, then one more each.
        for name, wanted, allowed in (
            ("tick-by-tick streams", ticks, 5 * max(1, -(-settings.lines // 100))),
            ("market depths", count * words.count("book"), max(3, -(-settings.lines // 100) - 1)),
            ("streams", count * len(words), settings.lines),
        ):
            if wanted > allowed:
                mistakes.append(
                    Mistake(
                        "symbols",
                        f"{wanted} {name} are asked for, and an account with {settings.lines} market"
                        f" data lines has {allowed}. Ask for less, or set lines in [venue.ib] to what"
                        " the account has.",
                    )
                )
        if mistakes:
            raise ConfigError(mistakes)

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Connect and deliver until the connection ends.

        Raises ConnectionFailed, ConnectionLost, Throttled (the client id is taken), or
        SubscriptionRefused where nothing is left that the venue would give.
        """
        host, port = self._settings.address
        number = self._settings.client_id
        while (host, port, number) in _TAKEN:
            number += 1
        _TAKEN.add((host, port, number))
        self._session = Session(self._feed, self._settings, self._pace, number)
        try:
            await self._session.run(deliver)
        finally:
            self._session = None
            _TAKEN.discard((host, port, number))

    def symbols_changed(self) -> None:
        """Ask for what is new and no longer for what is gone."""
        if self._session is not None:
            self._session.lines.stir.set()


def _problem(channel: str) -> str:
    word, parameter = channel_parts(channel)
    if word not in _WORDS:
        return (
            f"Interactive Brokers has no channel {channel!r}; it has {', '.join(sorted(_WORDS))}."
        )
    if word == "klines" and parameter != "5s":
        return (
            f"bars come every 5 seconds only: write 'klines:5s', not {channel!r}, and add them up."
        )
    if word == "book" and not (parameter.isdigit() and 1 <= int(parameter) <= _MOST_ROWS):
        return (
            f"a book needs its number of rows, 1 to {_MOST_ROWS}, as in 'book:5', not {channel!r}."
        )
    return (
        f"{word!r} takes no parameter: {channel!r}"
        if parameter and word in ("trades", "quotes")
        else ""
    )
