"""Injects faults: watches the occasions of each, acts when it is time, and writes it down."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from .faults import CHANNELS, Fault
from .server_api import Framing
from .truth import InjectedFault

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from .market import SimulatedMarket
    from .server_api import VenueServer, VenueStream
    from .subscriber import Subscriber
    from .truth import Truth

__all__ = ["Injector", "faults_of"]

_SECOND = 1_000_000_000
_LINE = ("disconnect", "server_shutdown")
Out = tuple[str, bool]  # a text, and whether it is sent without the venue's envelope


def faults_of(venue: VenueServer) -> Mapping[str, frozenset[str]]:
    """Return the faults that only *venue* has; one that says nothing of any has none."""
    own: Mapping[str, frozenset[str]] = getattr(venue, "faults", {})
    return own


class Injector:
    """The faults of one simulation."""

    def __init__(
        self,
        faults: Sequence[Fault],
        market: SimulatedMarket,
        venue: VenueServer,
        truth: Truth,
        seed: int,
    ) -> None:
        self._market, self._venue, self._truth = market, venue, truth
        self._random = random.Random(f"faults {seed}")
        self._own = own = faults_of(venue)
        # Fields of what is no JSON only the venue knows.
        self._by_venue = frozenset(_BY_VENUE)
        if isinstance(venue, Framing):
            self._by_venue |= {"missing_fields"}
        self._by_kind: defaultdict[str, list[Fault]] = defaultdict(list)
        for fault in faults:
            self._by_kind[fault.kind].append(fault)
        self._timed = [fault for fault in faults if _bound_to_time(fault)]
        self._next = {fault: market.epoch + int((fault.at or 0) * _SECOND) for fault in self._timed}
        self._on_data = [
            fault for fault in faults
            if fault.kind in (*_ON_DATA, *_LINE, *own) and fault not in self._timed
        ]  # fmt: skip
        self._occasions: defaultdict[Hashable, int] = defaultdict(int)
        self._done: defaultdict[Hashable, int] = defaultdict(int)
        self._mute: dict[tuple[Subscriber, VenueStream | None], int | None] = {}
        self._held: dict[tuple[Subscriber, VenueStream], list[tuple[int, str]]] = {}
        self.end_connection: Callable[[Subscriber, str], None] = lambda _, __: (
            None
        )  #: ends a connection

    # --------------------------------------------------------------------------- when it is time

    def _spent(self, fault: Fault, key: Hashable) -> bool:
        done = self._done[id(fault), key if fault.each else None]
        return (bool(fault.count) and done >= fault.count) or self._over(fault)

    def _over(self, fault: Fault) -> bool:
        """Say whether the time of a fault is over."""
        if fault.until is None:
            return False
        return self._market.now >= self._market.epoch + fault.until * _SECOND

    def _due(self, fault: Fault, key: Hashable, *, number: int = 0) -> bool:
        """Count an occasion of *fault*, and say whether it is to be spoiled."""
        if fault.connection is not None and fault.connection != number:
            return False
        if fault.at is not None and self._market.now < self._market.epoch + fault.at * _SECOND:
            return False
        if self._spent(fault, key):
            return False
        place = (id(fault), key if fault.each else None)
        self._occasions[place] += 1
        past = self._occasions[place] - fault.after
        if past < 1 or (past - 1) % fault.every:
            return False
        return fault.chance >= 1 or self._random.random() < fault.chance

    def _did(
        self,
        fault: Fault,
        key: Hashable,
        detail: str = "",
        number: int = 0,
        stream: VenueStream | None = None,
    ) -> None:
        self._done[id(fault), key if fault.each else None] += 1
        name, symbol = (stream.name, stream.symbol) if stream else ("", fault.symbol)
        self._truth.record_fault(
            InjectedFault(fault.kind, self._market.now, number, name, symbol, detail)
        )

    def fault_due(self, kind: str, number: int = 0, detail: str = "") -> Fault | None:
        """Count an occasion of the faults of one kind; return the one that is to be, if any."""
        for fault in self._by_kind.get(kind, ()):
            if self._due(fault, number, number=number):
                self._did(fault, number, detail, number)
                return fault
        return None

    def lingering_seconds(self, number: int) -> float:
        """Return for how many seconds a connection that has ended still counts."""
        fault = self.fault_due("lingering_session", number)
        if fault is None:
            return 0.0
        return 10.0 if fault.seconds is None else fault.seconds

    def max_age_seconds(self, number: int) -> float | None:
        """Return the age in seconds at which a connection is to be ended, if a fault says so."""
        ages = [
            60.0 if fault.seconds is None else fault.seconds
            for fault in self._by_kind.get("max_age", ())
            if fault.connection in (None, number) and not self._spent(fault, number)
        ]
        return min(ages, default=None)

    def snapshot_lag(self, differs: Callable[[int], bool]) -> int:
        """Return by how many updates the books of a REST answer are to be behind."""
        for fault in self._by_kind.get("stale_snapshot", ()):
            lag = fault.value or 200
            if differs(lag) and self._due(fault, None):
                self._did(fault, None, f"{lag} updates behind")
                return lag
        return 0

    def inject_timed(self, followers: Sequence[Subscriber]) -> None:
        """Do what is bound to a time and to no frame."""
        now = self._market.now
        for fault in self._timed:
            due = self._next[fault]
            if now < due or self._over(fault):
                continue
            if fault.count and self._done[id(fault), None] >= fault.count:
                continue
            if fault.kind == "clock_skew_ms":
                skew = fault.value if fault.value is not None else 1500
                self._market.clock_skew_ns = skew * 1_000_000
                self._did(fault, None, f"{skew} ms")
                self._next[fault] = due + fault.every * _SECOND
                continue
            hit = [one for one in followers if fault.connection in (None, one.number)]
            if hit:
                self._next[fault] = max(due + fault.every * _SECOND, now)
            for follower in hit:
                self._strike_line(fault, follower, None)
            if hit:
                # However many connections it ended, it was done once.
                self._done[id(fault), None] += 1 - len(hit)

    # ------------------------------------------------------------------------------ on data frames

    def corrupt(self, follower: Subscriber, stream: VenueStream, text: str) -> list[Out]:
        """Return what is sent instead of *text*."""
        if self._mute and self._muted(follower, stream):
            return []  # what is not sent is no occasion for anything else
        whole: list[Out] = [(text, False)]
        out = whole
        for fault in self._on_data:
            if not self._about(fault, stream) or self._spent(fault, (follower, stream)):
                continue
            if out is not whole and fault.kind not in _LINE:
                # One frame is spoiled once, so that each fault is what it is said to be.
                self._occasions[id(fault), (follower, stream) if fault.each else None] += 1
            else:
                out = self._apply(fault, follower, stream, text, out)
        if self._held:
            out = out + self._release((follower, stream))
        if self._mute and self._muted(follower, stream):
            return []
        return out

    def _about(self, fault: Fault, stream: VenueStream) -> bool:
        """Say whether *stream* is one that *fault* is about."""
        if fault.symbol and fault.symbol != stream.symbol:
            return False
        if fault.channel:
            return fault.channel in (stream.channel, stream.channel.partition(":")[0])
        channels = CHANNELS.get(fault.kind) or self._own.get(fault.kind)
        if not channels:
            return True
        if fault.kind == "drop_diff":
            return stream.channel in channels
        return stream.channel in channels or stream.channel.partition(":")[0] in channels

    def _apply(
        self, fault: Fault, follower: Subscriber, stream: VenueStream, text: str, out: list[Out]
    ) -> list[Out]:
        key, number = (follower, stream), follower.number
        if fault.kind in self._own:
            # The venue is asked only when it is time: it may do more than change the text.
            if self._due(fault, key, number=number):
                spoiled = self._venue.corrupt(fault.kind, stream, text)
                if spoiled is not None:
                    self._did(fault, key, "", number, stream)
                    return [(item, False) for item in spoiled]
                self._occasions[id(fault), key if fault.each else None] -= 1
            return out
        if fault.kind in self._by_venue:
            spoiled = self._venue.corrupt(fault.kind, stream, text)
            if spoiled is None or not self._due(fault, key, number=number):
                return out
            self._did(fault, key, "", number, stream)
            return [(item, False) for item in spoiled]
        if not self._due(fault, key, number=number):
            return out
        if fault.kind in _LINE:
            self._strike_line(fault, follower, stream)
            return out
        return self._spoil(fault, follower, stream, text)

    def _spoil(
        self, fault: Fault, follower: Subscriber, stream: VenueStream, text: str
    ) -> list[Out]:
        detail, out = "", [(text, False)]
        match fault.kind:
            case "drop_diff":
                detail, out = text, []
            case "dup_trade":
                detail, out = text, [(text, False), (text, False)]
            case "late_trade" | "reorder":
                frames = 1 if fault.kind == "reorder" else fault.value or 3
                self._held.setdefault((follower, stream), []).append((frames + 1, text))
                detail, out = text, []
            case "malformed_json":
                out = [(text[: len(text) * 2 // 3], True)]
            case "plain_text_frame":
                out = [("upstream connect error or disconnect", True), (text, False)]
            case "missing_fields":
                spoiled = self._thin(text)
                detail, out = spoiled, [(spoiled, False)]
            case "silent_stall":
                until = (
                    None
                    if fault.seconds is None
                    else self._market.now + int(fault.seconds * _SECOND)
                )
                self._mute[(follower, stream if fault.how != "all" else None)] = until
                detail = fault.how or "stream"
        self._did(fault, (follower, stream), detail, follower.number, stream)
        return out

    def _strike_line(self, fault: Fault, follower: Subscriber, stream: VenueStream | None) -> None:
        how = fault.how or "clean" if fault.kind == "disconnect" else "shutdown"
        self._did(fault, (follower, stream), how, follower.number)
        self.end_connection(follower, how)

    def _thin(self, text: str) -> str:
        """Take away one field that means something."""
        found: Any = json.loads(text)
        inner = found
        while isinstance(inner, list) or any(isinstance(v, dict) for v in inner.values()):
            inner = (
                inner[0]
                if isinstance(inner, list)
                else next(v for v in inner.values() if isinstance(v, dict))
            )
        keys = [key for key in inner if key not in ("e", "E", "s", "M", "st", "ps", "nq", "X")]
        del inner[keys[self._random.randrange(len(keys))]]
        return json.dumps(found, separators=(",", ":"))

    def _release(self, key: tuple[Subscriber, VenueStream]) -> list[Out]:
        waiting = [(frames - 1, text) for frames, text in self._held.pop(key, ())]
        if still := [(frames, text) for frames, text in waiting if frames > 0]:
            self._held[key] = still
        return [(text, False) for frames, text in waiting if frames <= 0]

    def _muted(self, follower: Subscriber, stream: VenueStream) -> bool:
        keys: tuple[tuple[Subscriber, VenueStream | None], ...] = (
            (follower, stream),
            (follower, None),
        )
        for key in keys:
            if key in self._mute:
                until = self._mute[key]
                if until is None or self._market.now < until:
                    return True
                del self._mute[key]
        return False

    def misroute(self, follower: Subscriber, stream: VenueStream) -> None:
        """Let a stream that was subscribed to be silent, if that is due."""
        for fault in self._by_kind.get("misroute_silence", ()):
            if self._about(fault, stream) and self._due(
                fault, (follower, stream), number=follower.number
            ):
                self._mute[(follower, stream)] = None
                self._did(fault, (follower, stream), "", follower.number, stream)

    def forget(self, follower: Subscriber) -> None:
        """Forget a connection that has ended."""
        for muted in [key for key in self._mute if key[0] is follower]:
            del self._mute[muted]
        for held in [key for key in self._held if key[0] is follower]:
            del self._held[held]


_BY_VENUE = ("crossed_book", "huge_batch", "missing_final_kline")
_ON_DATA = (
    *_BY_VENUE, "drop_diff", "dup_trade", "late_trade", "malformed_json", "missing_fields",
    "plain_text_frame", "reorder", "silent_stall",
)  # fmt: skip


def _bound_to_time(fault: Fault) -> bool:
    """Say whether *fault* waits for no frame, but for its time."""
    if fault.kind == "clock_skew_ms":
        return True
    return fault.kind in _LINE and fault.at is not None and not fault.symbol and not fault.channel
