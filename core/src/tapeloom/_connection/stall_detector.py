"""Which subscriptions have fallen silent, judged by how often each has spoken so far."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import NamedTuple

from attrs import define

from tapeloom.plugin import Subscription, channel_parts


class Stalled(NamedTuple):
    """A subscription of which nothing has come for `seconds`.

    `usual` is how often something used to come, where that is known; `strikes` how often in a row
    it has been found silent.
    """

    subscription: Subscription
    seconds: float
    usual: float | None
    strikes: int
    never: bool  #: it has not spoken yet

    @property
    def missed(self) -> bool:
        """Whether something may have been missed: by its habit, or because it never spoke."""
        fetched = channel_parts(self.subscription.channel)[0] in _FETCHED
        return self.usual is not None or (self.never and fetched)


@define
class Cadence:
    """How often one subscription speaks, in seconds."""

    spoke: float
    waiting: float  #: since when we wait for a word
    known: float  #: up to when what it said is known: its last word, or when it was first awaited
    patience: float  #: for how long nothing need come
    heard: int = 0
    mean: float = 0.0
    longest: float = 0.0
    strikes: int = 0

    def speaks(self, now: float, step: float) -> None:
        """Take note that it spoke since the last look, *step* seconds ago."""
        pause, self.spoke, self.waiting, self.strikes = now - self.spoke, now, now, 0
        self.known = now
        self.heard += 1
        if self.heard == 1 or pause < 0:
            return  # how long it took to begin says nothing of how often it speaks
        self.mean += (pause - self.mean) * max(1.0 / (self.heard - 1), _WEIGHT)
        self.longest = max(pause, self.longest * _FADING)
        if self.heard > _ENOUGH:
            pause = _between(self.mean, step)
            self.patience = max(_LEAST, _TIMES_MEAN * pause, _TIMES_LONGEST * self.longest)

    def mute(self, one: Subscription, now: float) -> Stalled:
        """Return that it is silent, and wait once more."""
        self.strikes += 1
        usual = self.mean if self.heard > _ENOUGH else None
        if self.strikes > 1 or usual is None:
            self.patience = min(2 * max(self.patience, _FIRST), _LAST)
        self.waiting = now
        return Stalled(one, now - self.known, usual, self.strikes, not self.heard)


def _between(seen: float, step: float) -> float:
    """Return the mean pause between two words, where only each *step* it is seen that there were some.

    What speaks at random, twice a second or twenty times, is seen to speak at almost every look.
    """
    return -step / math.log1p(-step / seen) if seen > step else 0.0


class StallDetector:
    """Watches the subscriptions of one session, by who has spoken since it last looked."""

    def __init__(self) -> None:
        self._voices: dict[Subscription, Cadence] = {}
        self._whole = Cadence(math.inf, math.inf, 0.0, math.inf)  # whoever speaks
        self._looked: float | None = None

    def begin(self, some: Iterable[Subscription], now: float) -> None:
        """Await a word of these, which the venue has agreed to."""
        for one in some:
            voice = self._voices.setdefault(one, Cadence(now, now, now, _FIRST))
            voice.spoke = voice.waiting = voice.known = now
        if self._whole.waiting > now:
            self._whole.spoke = self._whole.waiting = now

    def rest(self) -> None:
        """Await nothing until the venue has agreed anew, or speaks: its connection has ended."""
        for voice in (self._whole, *self._voices.values()):
            voice.spoke = voice.waiting = math.inf

    def forget(self, some: Iterable[Subscription]) -> None:
        """Await nothing of these any more."""
        for one in some:
            self._voices.pop(one, None)

    def excuse(self, now: float) -> None:
        """Begin to wait anew: it was we who did not listen."""
        for voice in (self._whole, *self._voices.values()):
            if voice.waiting < now:
                voice.spoke = voice.waiting = now

    def judge(self, spoke: Collection[tuple[str, str]], now: float) -> list[Stalled]:
        """Return those that have been silent for longer than is sound.

        *spoke* is of which symbols and channels something has come since the last time.

        What has never spoken may well be quiet: it is found silent once, where others do speak. A
        book or a quote begins with a word, and trades can be asked for: so these are found silent
        again and again, later and later.
        """
        self._listen(spoke, now)
        if not any(voice.heard for voice in self._voices.values()):
            return []  # nobody has spoken yet
        late = [
            voice.mute(one, now)
            for one, voice in self._voices.items()
            if now - voice.waiting > voice.patience
        ]
        return [
            each
            for each in late
            if each.missed or each.strikes == 1 or _begins(each.subscription.channel)
        ]

    def hushed(self, now: float) -> float:
        """Return for how many seconds nothing at all was said, as of the last `judge`; 0.0: it is no wonder.

        Many that speak seldom are together never silent for long: what each of them may still be
        allowed, all of them are not.
        """
        whole, many = self._whole, len(self._voices) > 1
        return now - whole.waiting if many and now - whole.waiting > whole.patience else 0.0

    def activity(self, one: Subscription) -> float:
        """Return how often *one* speaks in a second, as far as is known."""
        voice = self._voices.get(one)
        return 1.0 / voice.mean if voice is not None and voice.mean else 0.0

    def doubtful(self, now: float) -> dict[Subscription, float]:
        """Return those that say nothing for longer than they ever did, and since when, as of *now*.

        That is too little to call them silent. But should the connection have ended now, nobody can
        tell whether they had fallen mute before.
        """
        return {
            one: voice.known
            for one, voice in self._voices.items()
            if now - voice.known > _LOOKS + (voice.longest if voice.heard > _ENOUGH else _LEAST)
        }

    def most(self, mute: Collection[Stalled]) -> bool:
        """Return whether most of all that is watched is silent: then it is the connection."""
        return len(mute) > 1 and 2 * len(mute) > len(self._voices)

    def _listen(self, spoke: Collection[tuple[str, str]], now: float) -> None:
        step = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        for one in spoke:
            subscription = Subscription(*one)
            voice = self._voices.get(subscription)
            if voice is not None:
                voice.speaks(now, step)
        if spoke:
            self._whole.speaks(now, step)


def _begins(channel: str) -> bool:
    """Return whether a venue says something as soon as this is subscribed to."""
    return channel_parts(channel)[0] in {"book", "quotes", "ticker"}


#: Channels whose past can be had: what they may have missed is worth asking for.
_FETCHED = frozenset({"trades", "agg_trades"})
#: So many pauses must have been seen before they are judged by.
_ENOUGH = 20
#: How much the last pause weighs in the mean, at the least, and what is left of the longest one.
_WEIGHT, _FADING = 0.02, 0.998
#: Trades come in bursts. With pauses at random, one of 20 times the mean comes once in 500 million.
_TIMES_MEAN, _TIMES_LONGEST = 20.0, 3.0
#: When something spoke is known to so many seconds.
_LOOKS = 1.0
#: Nothing is judged before so many seconds.
_LEAST = 5.0
#: What has not spoken yet is asked for anew after so many seconds, then later and later.
_FIRST, _LAST = 60.0, 3600.0
