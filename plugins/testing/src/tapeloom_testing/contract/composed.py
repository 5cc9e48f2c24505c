"""Composes one market of a venue and parses its frames as core does, without running a feed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

from attrs import define, field
from tapeloom import FeedSpec, Registry, Stack, StageSpec
from tapeloom.errors import PluginNotFound
from tapeloom.events import Event
from tapeloom.harness import ComposedFeed, compose_feed
from tapeloom.plugin import Clock, Reply
from tapeloom_simulator.registry import simulators, venue_server

from tapeloom_testing.clock import VirtualClock

from .declared import ContractViolation

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import Market, VenueServer

__all__ = ["Reader", "Subject", "cut"]

#: Name of the environment variable that holds the fake value of a secret setting.
_VARIABLE = "TAPELOOM_CONTRACT_{}"


@define
class Subject:
    """One market of a venue, as its contract class declares it."""

    venue: str
    market: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...]
    settings: Mapping[str, Any]
    secrets: Mapping[str, str] = field(factory=dict)
    registry: Callable[[], Registry] = Registry
    simulators: Callable[[], Registry] = simulators

    def table(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the venue's table: *given*, or the declared settings if None; secrets refer to variables."""
        table = {**(self.settings if given is None else given)}
        for name in self.secrets:
            table[name] = {"env": _VARIABLE.format(name.upper())}
        return table

    def environment(self) -> Any:
        """Return a context manager that sets the environment variables of the fake secrets."""
        fakes = {_VARIABLE.format(name.upper()): fake for name, fake in self.secrets.items()}
        return mock.patch.dict(os.environ, fakes)

    def stack(
        self,
        given: Mapping[str, Any] | None = None,
        *,
        channels: Sequence[str] | None = None,
        stages: Sequence[StageSpec] = (),
    ) -> Stack:
        """Return a stack of this market."""
        feed = FeedSpec(
            self.venue,
            self.symbols,
            self.channels if channels is None else tuple(channels),
            market=self.market,
            stages=tuple(stage.name for stage in stages),
        )
        return Stack(
            feeds=(feed,),
            stages={stage.name: stage for stage in stages},
            venues={self.venue: self.table(given)},
        )

    def plan(
        self,
        given: Mapping[str, Any] | None = None,
        *,
        channels: Sequence[str] | None = None,
        clock: Clock | None = None,
    ) -> ComposedFeed:
        """Return this market, composed. Raises ConfigError or PluginError."""
        with self.environment():
            stack = self.stack(given, channels=channels)
            return compose_feed(stack, registry=self.registry(), clock=clock or VirtualClock())

    def venue_server(self, market: Market, venue: str = "") -> VenueServer | None:
        """Return the venue's server side; None where it has none."""
        try:
            return venue_server(venue or self.venue, market, self.simulators())
        except PluginNotFound:
            return None


class Reader:
    """Parses frames as a connection does, and collects the replies; nothing is dialled."""

    def __init__(self, plan: ComposedFeed) -> None:
        self.plan = plan
        self.replies: list[Reply] = []

    def read(self, payloads: Iterable[bytes], recv: int = 1) -> list[Event]:
        """Return the events of one batch; replies are appended to `replies`.

        Raises ContractViolation if a frame is no market data and there is no codec to decode it.
        """
        events, replies = self.plan.read(payloads, recv)
        unread = [event for event in events if getattr(event, "rule", "") == "unreadable_frame"]
        if unread and self.plan.codec is None:
            raise ContractViolation(
                f"a frame is no market data, and no hook `subscribe` returns a codec: {unread[0]!r}"
            )
        self.replies += replies
        return events


def cut(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Return *items* in pieces of *size*, in order; a single piece if *size* is 0."""
    size = size or max(len(items), 1)
    return [items[start : start + size] for start in range(0, len(items), size)]
