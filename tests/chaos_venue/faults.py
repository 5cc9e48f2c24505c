"""What goes wrong at a venue: one coroutine per kind, which runs until its time is over.

A fault that nobody can see goes on until the client has acted: a silent connection until another one
is opened, a silent symbol until it is subscribed anew or the connection is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol, TypeAlias

from . import framing
from .venue import Link, Tampering, Venue

#: Codes of close frames: those of RFC 6455 and its registry, those that must not be sent, applications'
#: own, and none at all (None).
CLOSE_CODES = (
    1000, 1001, 1002, 1003, None, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
    1005, 1006, 1015, 3000, 4000, 4999, 0, 999, 5000, 65535,
)  # fmt: skip
#: A close frame whose payload is too short for a code, and one whose reason is no UTF-8.
_BAD_CLOSES = (
    framing.frame(b"\x03", framing.CLOSE),
    framing.frame(b"\x03\xe8\xff\xfe", framing.CLOSE),
)
#: Seconds for which an unseen fault waits for the client to act.
_MOST_SECONDS = 90.0


class OwnClock(Protocol):
    """The client's wall clock, which can be set."""

    shift_ns: int


Fault: TypeAlias = "Callable[[Scene], Awaitable[None]]"


class Scene:
    """What a fault acts on: a venue, chance, the seconds of the phase, the client's clock."""

    def __init__(self, venue: Venue, seed: int, seconds: float, clock: OwnClock) -> None:
        self.venue = venue
        self.random = Random(seed)
        self.clock = clock
        self._seconds = seconds
        self._until = 0.0

    async def play(self, fault: Fault) -> None:
        """Wait until a client has been connected for a moment, and do what *fault* does."""
        await self.linked()
        await self.pause(1.0, 3.0)
        self._until = asyncio.get_running_loop().time() + self._seconds
        await fault(self)

    @property
    def is_over(self) -> bool:
        """Whether the time of the phase is over."""
        return asyncio.get_running_loop().time() >= self._until

    async def pause(self, least: float, most: float) -> None:
        """Wait for some seconds."""
        await asyncio.sleep(self.random.uniform(least, most))

    async def over(self) -> None:
        """Wait until the time of the phase is over."""
        await asyncio.sleep(self._until - asyncio.get_running_loop().time())

    async def linked(self) -> list[Link]:
        """Wait until a client is connected and subscribed; return the connections."""
        for _ in range(600):
            links = [
                link
                for link in self.venue.links
                if link.subscribed and not link.is_dead and not link.writer.is_closing()
            ]
            if links:
                return links
            await asyncio.sleep(0.1)
        return []


async def _until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, but not for ever."""
    for _ in range(round(_MOST_SECONDS * 5)):
        if condition():
            return
        await asyncio.sleep(0.2)


async def rst(scene: Scene) -> None:
    """Reset every connection, again and again."""
    while not scene.is_over:
        for link in await scene.linked():
            link.reset()
        await scene.pause(1.0, 5.0)


async def fin(scene: Scene) -> None:
    """End every connection without a close frame, sometimes in the middle of a frame."""
    while not scene.is_over:
        for link in await scene.linked():
            if scene.random.random() < 0.5:
                link.write(framing.frame(b'{"stream":"btc')[:-5])
            link.finish()
        await scene.pause(1.0, 5.0)


async def closes(scene: Scene) -> None:
    """Close with every code there is, in an order of its own, or with as many as the time allows."""
    frames = [framing.close_frame(code) for code in CLOSE_CODES]
    frames += [*_BAD_CLOSES, framing.close_frame(1008, "too many requests \N{SNOWMAN}")]
    scene.random.shuffle(frames)
    for frame in frames:
        for link in await scene.linked():
            await link.close(frame)
        if scene.is_over:
            return
        await scene.pause(0.5, 2.0)


async def half_open(scene: Scene) -> None:
    """Let a connection fall silent without an end, until the client opens another one."""
    while not scene.is_over:
        for link in await scene.linked():
            link.is_dead = True
        dials = scene.venue.dials
        await _until(lambda: scene.venue.dials > dials)  # noqa: B023 - awaited at once
        await scene.pause(1.0, 8.0)


async def stall(scene: Scene) -> None:
    """Send nothing of one symbol, until it is subscribed anew or until the connection is left."""
    while not scene.is_over:
        for link in await scene.linked():
            native = scene.random.choice(sorted(link.subscribed) or [""])
            link.stalled[native] = scene.random.random() < 0.5
            await _until(lambda: native not in link.stalled or link not in scene.venue.links)  # noqa: B023
        await scene.pause(1.0, 5.0)


async def _tamper(scene: Scene, tampering: Tampering) -> None:
    scene.venue.tampering = tampering
    await scene.over()
    scene.venue.tampering = Tampering()
    for link in scene.venue.links:
        link.release_all()


async def reorder(scene: Scene) -> None:
    """Send one frame in ten up to five frames late."""
    await _tamper(scene, Tampering(reorder=0.1))


async def repeats(scene: Scene) -> None:
    """Send one frame in ten twice, at once or a little later."""
    await _tamper(scene, Tampering(repeat=0.1))


async def drops(scene: Scene) -> None:
    """Leave out one frame in ten."""
    await _tamper(scene, Tampering(drop=0.1))


async def corrupt(scene: Scene) -> None:
    """Damage one frame in twenty; send texts that are nothing at all."""
    tampering = asyncio.create_task(_tamper(scene, Tampering(corrupt=0.05)))
    while not scene.is_over:
        await scene.pause(0.5, 3.0)
        for link in scene.venue.links:
            link.send(
                scene.random.choice(("", "null", "[]", "{", "\x00", "<html>", "[[[[[", '"x"'))
            )
    await tampering


def _slow(random: Random) -> tuple[float, str]:
    """Return how long an answer takes, and what it is in place of one."""
    action = random.choice(("", "", "", "503", "429\nRetry-After: 1", "reset", "half"))
    return random.uniform(0.0, 6.0), action


async def slow_rest(scene: Scene) -> None:
    """Answer over REST late, partly, or not at all, while trades are lost."""
    venue, random = scene.venue, scene.random
    venue.on_request = lambda: _slow(random)
    venue.tampering = Tampering(drop=0.03)
    while not scene.is_over:
        await scene.pause(2.0, 8.0)
        for link in await scene.linked():
            link.reset()
    venue.tampering = Tampering()
    venue.on_request = lambda: (0.0, "")


async def dial_storm(scene: Scene) -> None:
    """Cut all connections, and turn away whoever dials, in a different way each time."""
    venue, random = scene.venue, scene.random
    actions = ("reset", "finish", "hang", "500", "503", "429", "accept and finish")
    while not scene.is_over:
        for link in await scene.linked():
            link.reset()
        venue.on_dial = lambda: random.choice(actions)
        await scene.pause(3.0, 12.0)
        venue.on_dial = lambda: ""
        await scene.pause(2.0, 10.0)


async def clocks(scene: Scene) -> None:
    """Set the venue's clock and the client's, by seconds and by hours; in the end both are right."""
    steps_ms = (2_000, -2_000, 45_000, -45_000, 3_600_000, -3_600_000)
    while not scene.is_over:
        step_ms = scene.random.choice(steps_ms)
        if scene.random.random() < 0.5:
            scene.venue.market.move_clock(step_ms)
        else:
            scene.clock.shift_ns = step_ms * 1_000_000
        await scene.pause(3.0, 10.0)
        if scene.random.random() < 0.5:
            for link in await scene.linked():
                link.reset()
            await scene.pause(1.0, 3.0)
    scene.venue.market.move_clock(0)
    scene.clock.shift_ns = 0


async def announced_close(scene: Scene) -> None:
    """Announce the end of a connection where the venue does that; then close it."""
    while not scene.is_over:
        for link in await scene.linked():
            if notice := scene.venue.wire.closing_notice(scene.venue.market):
                link.send(notice)
                await scene.pause(0.0, 12.0)
            await link.close(framing.close_frame(1001))
        await scene.pause(3.0, 8.0)


#: The kinds of fault by the name that the table shows.
SINGLE: dict[str, Fault] = {
    "RST": rst, "FIN": fin, "close codes": closes, "half-open": half_open, "stall": stall,
    "reorder": reorder, "duplicates": repeats, "drops": drops, "corrupt JSON": corrupt,
    "slow REST": slow_rest, "dial storm": dial_storm, "clock jumps": clocks, "announced close": announced_close,
}  # fmt: skip


async def mixed(scene: Scene) -> None:
    """Do everything at once: damaged streams, slow REST, and every few seconds one more fault."""
    venue, random = scene.venue, scene.random
    venue.on_request = lambda: _slow(random)
    acts: tuple[Callable[[Link], None], ...] = (
        lambda link: link.reset(),
        lambda link: link.finish(),
        lambda link: setattr(link, "is_dead", True),
        lambda link: link.stalled.update({random.choice(sorted(link.subscribed)): True}),
        lambda link: link.stalled.update({random.choice(sorted(link.subscribed)): False}),
        lambda link: link.write(framing.close_frame(random.choice(CLOSE_CODES))),
    )
    while not scene.is_over:
        shares = [random.choice((0.0, 0.05)) for _ in range(4)]
        venue.tampering = Tampering(*shares[:3], shares[3] / 2)
        await scene.pause(1.0, 6.0)
        for link in await scene.linked():
            random.choice(acts)(link)
        venue.on_dial = lambda: random.choice(("", "", "", "reset", "503", "hang"))
    venue.tampering = Tampering()
    venue.on_request, venue.on_dial = lambda: (0.0, ""), lambda: ""
    for link in venue.links:
        link.release_all()


FAULTS: dict[str, Fault] = {**SINGLE, "mixed": mixed}
